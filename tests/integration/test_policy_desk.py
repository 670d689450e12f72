"""Lists, snoozes, scopes and the breaker through a worker: what they do to decisions, and that all of it recomputes."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from detectors.register import ALL_PROGRAMS
from streams import listing, policies
from streams.breaking import expected_shares
from streams.listing import Asked, ListingError, Why
from tests.integration.pipeline_desk import LIVE, POLICY, SIMULATION, Desk, event, open_desk
from tests.integration.test_audit_acts import one
from tests.integration.test_pipeline_recompute import check_all

WHY = Why("li.na", "ticket 118")
LATER = datetime.now(UTC) + timedelta(days=30)
ALERTS = "points.alerts"
RULES = """
  - id: vip_only
    expression: lists.vip > 0.0
    weight: -1.0
    reason: {en: "a guest of the house", zh: "贵宾"}
  - id: half_of_them
    expression: event.points == 77
    rollout: 50.0
    weight: 5.0
    reason: {en: "on trial for half of the accounts", zh: "仅对一半账户试行"}
models:"""
BREAKER = "\nbreaker: {events: 100, window: 200, unknown: 0.5}\n"
DOCUMENT = POLICY.replace("\nmodels:", RULES) + BREAKER


@pytest.fixture
def desk(database: str, redis_url: str, tmp_path: Path) -> Iterator[Desk]:
    """A worker whose policy reads a named list, rolls out a rule to half of the accounts and has a small breaker."""
    with open_desk(database, redis_url, tmp_path, DOCUMENT) as made:
        yield made


def put(desk: Desk, name: str, kind: str, value: str, program: str = ALL_PROGRAMS) -> int:
    """Put an entity on a list, and let the worker look; the entry's number."""
    with desk.engine.begin() as conn:
        (number,) = listing.add(conn, name, program, [listing.target_of(kind, value, desk.keys)], None, WHY)
    desk.stages.catalog.refresh()
    return number


def reasons(desk: Desk, event_id: str) -> list[tuple[str, str, float | None]]:
    """Code, kind and value of the reasons of an event."""
    said = desk.one("SELECT reasons::text FROM decision WHERE event_id = :id", id=event_id)
    return [(reason["code"], reason["kind"], reason.get("value")) for reason in json.loads(said)]


def test_lists_decide_and_decisions_recompute(desk: Desk) -> None:
    """Block, final block, allow and watch, by account, device, network, store and receiver; not of other programmes."""
    blocked = put(desk, "block", "device", "bad phone")
    final = put(desk, "final", "ip", "203.0.113.0/24")
    allowed = put(desk, "allow", "account", "vip", LIVE)
    put(desk, "block", "account", "mule")
    put(desk, "watch", "store", "s-9")
    put(desk, "block", "account", "elsewhere", SIMULATION)
    desk.send(
        event(id="e1", device="bad phone"),
        event(id="e2", ip="203.0.113.77"),
        event(id="e3", ip="203.0.114.77"),
        event(id="e4", account="vip", device="bad phone", points=5_000),
        event(id="e5", account="vip", ip="203.0.113.1"),
        event("transfer", id="t1", account="ann", to="mule", points=1),
        event(id="e6", store="s-9"),
        event(id="e7", account="elsewhere"),
        event("login", id="n1", device="bad phone"),
    )
    outcomes = {name: outcome for name, (outcome, _) in desk.outcomes().items()}
    assert outcomes == {
        "e1": "reject", "e2": "reject", "e3": "approve", "e4": "approve", "e5": "reject", "t1": "reject",
        "e6": "approve", "e7": "approve", "n1": "noted",
    }  # fmt: skip
    assert reasons(desk, "e1") == [("list_block", "list", blocked)]
    assert reasons(desk, "e2") == [("list_final", "list", final)]
    assert reasons(desk, "e4") == [("large", "rule", 5000.0), ("list_allow", "list", allowed)]
    assert [code for code, _, _ in reasons(desk, "e6")] == ["list_watch"]
    check_all(desk)
    desk.verified()


def test_an_entry_ends_and_rows_are_only_ever_ended(desk: Desk) -> None:
    """Taken off a list an account passes; the row stays, cannot be changed or deleted, and may be made anew."""
    number = put(desk, "block", "account", "ann")
    with desk.engine.begin() as conn:
        assert (
            listing.add(conn, "block", ALL_PROGRAMS, [listing.target_of("account", "ann", desk.keys)], None, WHY) == []
        )
        listing.remove(conn, number, Why("mo", "a mistake"))
        with pytest.raises(ListingError, match="no entry"):
            listing.remove(conn, number, WHY)
    desk.stages.catalog.refresh()
    desk.send(event(id="e1"))
    assert desk.outcomes()["e1"] == ("approve", "posted")
    for change in ("DELETE FROM list_entry", "UPDATE list_entry SET until = now() + interval '1 day'"):
        with pytest.raises(DBAPIError, match=r"refused|only ever ended"), desk.engine.begin() as conn:
            conn.execute(text(change))
    with desk.engine.connect() as conn:
        (row,) = listing.entries(conn, Asked(list="block", ended=True))
    assert (row.removed_by, row.removed_reason, row.reason) == ("mo", "a mistake", "ticket 118")
    assert put(desk, "block", "account", "ann") > number


def test_an_expired_entry_counts_no_more_and_may_be_made_anew(desk: Desk) -> None:
    """Expiry is by the event's own time of observation."""
    target = listing.target_of("account", "ann", desk.keys)
    ends = datetime(2026, 3, 1, 1, 59, tzinfo=UTC)
    with desk.engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO list_entry (list, program, kind, prefix, value, shown, until, reason, added_by, added_at)"
                " VALUES ('block', '', 'account', 0, :value, 'ann', :until, 'r', 'a', :until - interval '1 day')"
            ),
            {"value": target.value, "until": ends},
        )
    desk.stages.catalog.refresh()
    desk.send(event(id="e1"))  # observed a minute later
    assert desk.outcomes()["e1"] == ("approve", "posted")
    with pytest.raises(ListingError, match="lies in the past"), desk.engine.begin() as conn:
        listing.add(conn, "watch", ALL_PROGRAMS, [target], ends, WHY)
    put(desk, "block", "account", "ann")
    desk.send(event(id="e2"))
    assert desk.outcomes()["e2"] == ("reject", "rejected")


def test_a_named_list_is_for_the_rules_that_name_it(desk: Desk) -> None:
    """A plain list alone changes nothing; the rule that reads it fires."""
    with desk.engine.begin() as conn:
        listing.create_list(conn, "vip", "plain", WHY)
        with pytest.raises(ListingError, match="another name"):
            listing.create_list(conn, "vip", "plain", WHY)
    put(desk, "vip", "account", "ann")
    desk.send(event(id="e1"), event(id="e2", account="bob"))
    assert reasons(desk, "e1") == [("vip_only", "rule", None)]
    assert reasons(desk, "e2") == []
    check_all(desk)


def test_a_snooze_silences_one_rule_for_one_entity(desk: Desk) -> None:
    """The rule is told as snoozed, other rules and other entities stay; a snooze ends, at the latest after 180 days."""
    target = listing.target_of("account", "ann", desk.keys)
    with desk.engine.begin() as conn:
        number = listing.snooze(conn, "large", LIVE, target, LATER, WHY)
        with pytest.raises(ListingError, match="180 days"):
            listing.snooze(conn, "large", LIVE, target, LATER + timedelta(days=200), WHY)
    desk.stages.catalog.refresh()
    desk.send(event(id="e1", points=5_000), event(id="e2", account="bob", points=5_000), event(id="e3", points=200_000))
    assert {name: outcome for name, (outcome, _) in desk.outcomes().items()} == {
        "e1": "approve", "e2": "hold", "e3": "reject",
    }  # fmt: skip
    assert reasons(desk, "e1") == [("large", "snoozed", 5000.0)]
    with desk.engine.begin() as conn:
        listing.end_snooze(conn, number, WHY)
    desk.stages.catalog.refresh()
    desk.send(event(id="e4", points=5_000))
    assert desk.outcomes()["e4"][0] == "hold"
    check_all(desk)
    desk.verified()


def test_a_rollout_recomputes_from_the_stored_account(desk: Desk) -> None:
    """Some of sixteen accounts meet the rule and some do not, and every decision is made again the same."""
    desk.send(*(event(id=f"e{i}", account=f"a{i}", points=77) for i in range(16)))
    met = {outcome for outcome, _ in desk.outcomes().values()}
    assert met == {"approve", "hold"}
    check_all(desk)


def flood(desk: Desk, tag: str, events: int, share: float) -> None:
    """Send a batch of which a share fires the rule `large`."""
    large = round(events * share)
    desk.send(*(event(id=f"{tag}{i}", account=f"{tag}{i}", points=2_000 if i < large else 5) for i in range(events)))


def test_a_runaway_rule_is_paused_and_goes_on_when_told(desk: Desk) -> None:
    """Above its limit it is treated as on trial, with a row, an alert and an act; resumed, it counts afresh."""
    flood(desk, "a", 150, 0.9)
    assert desk.stages.catalog.judge.paused == {"large"}
    (pause,) = desk.rows("SELECT * FROM rule_pause")
    assert (pause.version, pause.rule, pause.hits, pause.events) == (1, "large", 135, 150)
    (alert,) = [said for said in desk.said(ALERTS) if said["alert"] == "rule_paused"]
    assert (alert["rule"], "135 of the last 150" in alert["detail"]) == ("large", True)
    assert one(desk.engine, "rule.paused")["detail"]["rule"] == "large"
    desk.send(event(id="b", account="b", points=2_000))
    assert (desk.outcomes()["b"][0], reasons(desk, "b")) == ("approve", [("large", "shadow", 2000.0)])
    check_all(desk)
    with desk.engine.begin() as conn:
        policies.resume(conn, "large", "mo", "it was a sale")
    desk.stages.catalog.refresh()
    flood(desk, "c", 40, 1.0)
    assert desk.stages.catalog.judge.paused == frozenset()
    assert desk.outcomes()["c0"][0] == "hold"
    desk.verified()


def test_a_backtest_tells_what_to_expect_and_simulations_do_not_count(desk: Desk) -> None:
    """With half of the events expected, 60 % is fine; and a replay in a simulation programme trips nothing."""
    desk.stages.catalog.expected = {"large": 0.5}
    flood(desk, "a", 150, 0.6)
    assert desk.stages.catalog.judge.paused == frozenset()
    at = "2026-03-01T02:00:00Z"
    desk.send(*(event(id=f"s{i}", program=SIMULATION, points=2_000, occurred_at=at) for i in range(300)))
    assert desk.stages.catalog.judge.paused == frozenset()


def test_what_rules_did_is_written_down(desk: Desk) -> None:
    """By day and version: events seen, hits with effect, and points; rules that stayed silent are there with zero."""
    watch = desk.stages.pipeline._parts.rules
    desk.send(event(id="e1", points=5_000), event(id="e2"), event("login", id="n1"))
    watch._flush(force=True)
    rows = {row.rule: (row.events, row.hits, row.shadow, row.points) for row in desk.rows("SELECT * FROM rule_use")}
    assert rows["large"] == (2, 1, 0, 5_000)
    assert rows["forbidden"] == (2, 0, 0, 0)


def test_an_alert_of_a_hold_tells_why(desk: Desk) -> None:
    """In both languages, in the words of the policy that decided; what upstream reads tells nothing."""
    desk.send(event(id="e1", points=5_000), event(id="e2"))
    (alert,) = [said for said in desk.said(ALERTS) if said["alert"] == "hold_opened"]
    assert alert["why_en"][1:] == ["     +4.00  large: 5,000 points (limit 1,000)"]
    assert alert["why_zh"][1:] == ["     +4.00  large: 5,000 积分（上限 1,000）"]
    assert all("large" not in json.dumps(said) for said in desk.said("points.decisions"))


def test_what_is_expected_of_a_rule(desk: Desk) -> None:
    """Its long run, live or on trial, if long enough and it never ran away; a backtest's word goes first."""
    use = """INSERT INTO rule_use (day, version, rule, events, hits, shadow, snoozed, points)
             VALUES (current_date - :ago, :version, :rule, :events, :hits, :shadow, 0, 0)"""
    rows = [
        (1, 1, "large", 60_000, 300, 0),
        (2, 1, "large", 60_000, 0, 900),
        (40, 1, "large", 9_000_000, 9_000_000, 0),
        (1, 1, "busy_device", 99_999, 10, 0),
        (1, 1, "forbidden", 200_000, 150_000, 0),
        (1, 1, "vip_only", 200_000, 2_000, 0),
    ]
    with desk.engine.begin() as conn:
        for ago, version, rule, events, hits, shadow in rows:
            said = {"ago": ago, "version": version, "rule": rule, "events": events, "hits": hits, "shadow": shadow}
            conn.execute(text(use), said)
        conn.execute(
            text(
                "INSERT INTO rule_pause (version, rule, worker, hits, events, expected, why)"
                " VALUES (1, 'forbidden', 'w', 1, 1, 0, 'ran away')"
            )
        )
        assert expected_shares(conn, 1) == {"large": 0.01, "vip_only": 0.01}
        tested = """INSERT INTO backtest (version, made_by, since, until, events, report)
                    VALUES (1, 'ann', now(), now() + interval '1 day', :events, CAST(:report AS json))"""
        for events, share in ((1_000, 0.5), (999, 0.0)):
            report = json.dumps({"rules": [{"rule": "large", "share": share}]})
            conn.execute(text(tested), {"events": events, "report": report})
        assert expected_shares(conn, 1) == {"large": 0.5, "vip_only": 0.01}


def test_lists_never_outgrow_what_workers_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be too much is refused where it is added: a worker that cannot read the lists could not start."""
    monkeypatch.setattr("streams.listing.ENTRIES_MOST", 2)
    put(desk, "block", "account", "ann")
    put(desk, "watch", "account", "ann")
    with pytest.raises(ListingError, match="at most 2 entries"):
        put(desk, "block", "account", "bob")
    desk.stages.catalog.refresh()
    assert desk.count("list_entry") == 2


def test_what_cannot_be_read_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails half-way takes over nothing, and the next one takes over all: no policy is ever missed."""
    catalog = desk.stages.catalog
    with desk.engine.begin() as conn:
        version = policies.draft(conn, DOCUMENT, "ann", "the same again")
        approved = "UPDATE policy SET approved_by = 'bob', approved_at = now() WHERE version = :version"
        conn.execute(text(approved), {"version": version})
        policies.activate(conn, version, "bob", "now")
        listing.add(conn, "block", ALL_PROGRAMS, [listing.target_of("account", "ann", desk.keys)], None, WHY)
    with monkeypatch.context() as broken:
        broken.setattr("streams.catalog.load_snoozes", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            catalog.refresh()
        assert (catalog.judge.policy.policy.version, catalog.judge.entries.kinds) == (1, {})
    catalog.refresh()
    assert catalog.judge.policy.policy.version == version
    assert set(catalog.judge.entries.kinds) == {"account", "to"}
