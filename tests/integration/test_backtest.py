"""Backtests against deciding by hand: verdicts, points, labels, desk work, examples, and what is left out."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from redis import Redis
from sqlalchemy import text

from config.policy import load_policy
from detectors.backtest import Report
from detectors.decision import CompiledPolicy
from detectors.register import ALL_PROGRAMS
from streams import listing
from streams.backtest import EXPIRED, NO_MODEL, REFUSED, Asked, backtest
from streams.backtest_velocity import missing, recompute
from streams.decisions import decide_again, stored_fields
from streams.layouts import LayoutBook
from streams.policies import Period
from tests.integration.pipeline_desk import NOW_MS, POLICY, SIMULATION, Desk, event
from tests.integration.test_pipeline_recompute import mixed, publish

DRAFT = (
    POLICY.replace("version: 1", "version: 2").replace("limit: 1000\n", "limit: 300\n").replace("limit: 60", "limit: 1")
)
DAY = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
EVER = Period(datetime(2019, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))


def replayed(desk: Desk, draft: CompiledPolicy, period: Period = EVER, examples: int = 100) -> Report:
    """The draft beside the policy in force, on what the desk has stored."""
    asked = Asked(draft, desk.stages.catalog.judge.policy, period, minutes_per_case=6.0, examples=examples)
    with desk.engine.connect() as conn:
        return backtest(conn, asked, lambda _: desk.stages.catalog.judge.snapshot)


def by_hand(desk: Desk, policy: CompiledPolicy) -> dict[str, tuple[str, int]]:
    """Verdict and points of every stored decision under a policy, one by one."""
    found: dict[str, tuple[str, int]] = {}
    query = "SELECT *, event::text AS said, reasons::text AS why FROM decision WHERE features IS NOT NULL"
    with desk.engine.connect() as conn:
        book = LayoutBook()
        for row in conn.execute(text(query)).all():
            if row.outcome == "expired" or (row.outcome == "reject" and row.code != "rejected"):
                continue
            stored = book.layout(conn, row.features_version)
            fields = stored_fields(row.said, row.device, row.ip)
            again = decide_again(
                fields, bytes(row.features), stored, row.why, policy, desk.stages.catalog.judge.snapshot
            )
            verdict = "suspicious" if again.suspicious else again.outcome
            found[row.event_id] = (verdict, abs(row.points or 0))
    return found


def label(desk: Desk, **labels: int) -> None:
    """Enter labels as the sequencer does."""
    with desk.engine.begin() as conn:
        conn.execute(text("DELETE FROM label_pending"))
        for seq, (name, value) in enumerate(labels.items(), start=1):
            conn.execute(
                text(
                    "INSERT INTO label_log (seq, decision_id, label, origin, recorded_at)"
                    " SELECT :seq, decision_id, :label, 'review', now() FROM decision WHERE event_id = :event"
                ),
                {"seq": seq, "label": value, "event": name.replace("_", "-")},
            )


@pytest.mark.parametrize("with_models", [False, True])
def test_a_report_is_what_deciding_by_hand_gives(desk: Desk, with_models: bool) -> None:
    """Verdicts, points, flips, labels and the rules' hits, with and without models."""
    if with_models:
        publish(desk, 1, seed=1)
    desk.send(*mixed("a"))
    desk.send(*mixed("b"))
    label(desk, e3_a=1, e2_a=0, e2_b=1, e4_b=0)
    draft = load_policy(DRAFT)
    report = replayed(desk, draft)
    was, becomes = by_hand(desk, desk.stages.catalog.judge.policy), by_hand(desk, draft)
    assert report.events == len(was) > 15
    assert report.points == sum(points for _, points in was.values())
    for side, verdicts in ((report.in_force, was), (report.draft, becomes)):
        counts = Counter(verdict for verdict, _ in verdicts.values())
        assert side.verdicts == {name: counts[name] for name in ("approve", "suspicious", "hold", "reject")}
        stopped = {name for name, (verdict, _) in verdicts.items() if verdict in {"hold", "reject"}}
        assert side.fraud_events == len(stopped & {"e3-a", "e2-b"})
        assert side.fraud_points == sum(verdicts[name][1] for name in stopped & {"e3-a", "e2-b"})
        assert side.honest_events == len(stopped & {"e2-a", "e4-b"})
        assert side.held_points == sum(points for verdict, points in verdicts.values() if verdict == "hold")
    flips = Counter((was[name][0], becomes[name][0]) for name in was if was[name][0] != becomes[name][0])
    assert {(flip.was, flip.becomes): flip.events for flip in report.flips} == flips
    assert {example.event_id for example in report.examples} == {n for n in was if was[n][0] != becomes[n][0]}
    assert (report.fraud_events, report.honest_events) == (2, 2)
    assert report.skipped[EXPIRED] == 2
    refused = "SELECT count(*) FROM decision WHERE outcome = 'reject' AND code <> 'rejected'"
    assert report.skipped[REFUSED] == desk.one(refused) > 0
    hits = {one.rule: one.hits for one in report.rules}
    assert hits["large"] == sum(points >= 300 for _, points in was.values())
    for example in report.examples:
        assert example.en[0].split(":")[0].lower().startswith({"hold": "held", "approve": "approved"}[example.becomes])
        assert len(example.en) == len(example.zh)


def test_holds_and_hours_of_a_day(desk: Desk) -> None:
    """Cases a day and the desk's hours follow from the period and the minutes a case takes."""
    desk.send(*(event(id=f"e{i}", points=400, account=f"a{i}") for i in range(10)))
    report = replayed(desk, load_policy(DRAFT), DAY)
    assert (report.days, report.draft.holds_per_day, report.draft.hours_per_day) == (1.0, 10.0, 1.0)
    assert report.in_force.holds_per_day == 0.0
    assert (report.draft.recall, report.draft.precision) == (None, None)
    two = replayed(desk, load_policy(DRAFT), Period(DAY.since, DAY.since + timedelta(days=4)))
    assert two.draft.holds_per_day == 2.5


def test_only_the_events_that_were_asked_for(desk: Desk) -> None:
    """Of a period and a programme; nothing at all is a report of zeros."""
    desk.send(event(id="e1"), event(id="e2", program=SIMULATION, occurred_at="2020-01-01T23:00:00Z"))
    draft = load_policy(DRAFT)
    assert replayed(desk, draft).events == 2
    assert replayed(desk, draft, DAY).events == 1
    assert replayed(desk, draft, Period(EVER.since, EVER.until, SIMULATION)).events == 1
    nothing = replayed(desk, draft, Period(DAY.until, EVER.until))
    assert (nothing.events, nothing.flips, nothing.draft.holds_per_day) == (0, (), 0.0)
    assert json.loads(msgspec.json.encode(nothing))["rules"][0]["share"] == 0.0


def test_snoozes_hold_in_a_backtest_and_pauses_do_not(desk: Desk) -> None:
    """Who was snoozed stays so under the draft; a rule that was paused is judged as if it had not been."""
    with desk.engine.begin() as conn:
        target = listing.target_of("account", "ann", desk.keys)
        ends = datetime.now(UTC) + timedelta(days=1)
        listing.snooze(conn, "large", ALL_PROGRAMS, target, ends, listing.Why("mo", "tester"))
    desk.stages.catalog.refresh()
    desk.send(event(id="e1", points=5_000))
    desk.stages.catalog.pause("large")
    desk.send(event(id="e2", account="bob", points=5_000))
    report = replayed(desk, load_policy(POLICY.replace("version: 1", "version: 2")))
    assert report.draft.verdicts == report.in_force.verdicts == {"approve": 1, "suspicious": 0, "hold": 1, "reject": 0}


def test_what_cannot_be_decided_again_is_counted(desk: Desk) -> None:
    """Decisions under a snapshot that is gone are left out by name."""
    publish(desk, 1, seed=1)
    desk.send(event(id="e1"))
    with desk.engine.connect() as conn:
        asked = Asked(load_policy(DRAFT), desk.stages.catalog.judge.policy, EVER)
        report = backtest(conn, asked, lambda _: None)
    assert (report.events, report.skipped) == (0, {NO_MODEL: 1})


@pytest.fixture
def narrow(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A worker that stores only what its rules read, as if the models read nothing."""
    monkeypatch.setattr("detectors.decision.INPUT_NAMES", ())
    desk.stages.catalog.judge = replace(desk.stages.catalog.judge, policy=load_policy(NARROW))
    return desk


NARROW = POLICY.replace("mode: shadow", "mode: off")
"""Without the rule on trial that names all of velocity."""
SUMS = DRAFT.replace("mode: shadow", "mode: off").replace("event.points >= limit", "velocity.device.sum_1h >= limit")


def test_velocity_that_was_not_stored_is_unknown_and_told(narrow: Desk) -> None:
    """A name that the rows lack and nobody recomputed fires nothing, and the report says on how many events."""
    narrow.send(event(id="e1", device="d"), event(id="e2", device="d", points=5_000), event(id="e3", device="d"))
    report = replayed(narrow, load_policy(SUMS))
    assert report.unknown == {"velocity.device.sum_1h": 3}
    assert report.draft.verdicts["hold"] == 0


def test_velocity_that_was_not_stored_is_counted_again(narrow: Desk) -> None:
    """From history, in an isolated store, it is what a worker would have counted: notices too, each event after others.

    Only a third purchase on the device comes after 300 points or more there; a day later nothing counts any more.
    """
    narrow.send(
        event("device.bound", id="n1", account="ann", device="d"),
        event(id="e1", account="ann", device="d", points=250),
        event(id="e2", account="bob", device="d", points=60),
        event(id="e3", account="cid", device="d", points=1),
        event(id="e4", account="cid", device="other", points=1),
    )
    narrow.deliver([narrow.part.record(event(id="e5", account="ann", device="d", occurred_at="2026-03-02T02:00:00Z"),
                                       time_ms=NOW_MS + 86_400_000)])  # fmt: skip
    draft = load_policy(SUMS)
    asked = Asked(draft, narrow.stages.catalog.judge.policy, EVER)
    with narrow.engine.connect() as conn, narrow.engine.connect() as other:
        names = missing(other, asked)
        assert names == ("velocity.device.sum_1h",)
        recomputed = recompute(other, narrow.keys, EVER, names)
        report = backtest(conn, asked, lambda _: None, recomputed)
    ids = {row.decision_id: row.event_id for row in narrow.rows("SELECT decision_id, event_id FROM decision")}
    counted = {ids[number]: float(recomputed.values[row, 0]) for number, row in recomputed.row_of.items()}
    assert counted == {"e1": 0.0, "e2": 250.0, "e3": 310.0, "e4": 0.0, "e5": 0.0}
    assert (report.recomputed, report.unknown) == (names, {})
    assert [(one.event_id, one.becomes) for one in report.examples] == [("e3", "hold")]


def test_a_backtest_leaves_everything_as_it_is(desk: Desk, redis_url: str) -> None:
    """No row and no velocity counter changes: the transaction can't write, and Redis is never asked."""
    desk.send(*mixed("a"))
    before = desk.effects()
    with Redis.from_url(redis_url) as client:
        keys = sorted(client.keys("*"))
        values = client.mget(keys)
        replayed(desk, load_policy(DRAFT))
        assert desk.effects() == before
        assert client.mget(keys) == values
