"""Every stored decision is made again from its row alone, to the last bit, also after policy and model have changed."""

import json
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from config.policy import load_policy
from detectors.decision import Reason
from detectors.layout import LINKS, NORM, Layout
from detectors.models import INPUT_NAMES
from detectors.models_learner import Learner
from detectors.models_snapshot import seal
from streams import model_store
from streams.decisions import decide_again, stored_fields
from streams.keys import model_key
from streams.layouts import LayoutBook
from streams.posting import Poster
from streams.velocity_epoch import Epoch
from tests.integration.pipeline_desk import POLICY, SIMULATION, WATCHED, Desk, event
from tests.unit import model_rows

_ROWS = """
SELECT *, event::text AS event_text, reasons::text AS reasons_text FROM decision
 WHERE features IS NOT NULL ORDER BY decision_id"""
_ACTIVATE = text("""
WITH off AS (UPDATE policy SET active = false WHERE active)
INSERT INTO policy (version, document, active, activated_at) VALUES (:version, :document, false, now())""")


def learned(seed: int, rows: int = 400) -> Learner:
    """Models that have learned from made-up features, so that real events look rare to them."""
    return model_rows.fold(model_rows.mixed(rows, seed), model_rows.unbounded())


def publish(desk: Desk, version: int, seed: int) -> None:
    """Publish a trained snapshot and let the worker take it over."""
    sealed = seal(learned(seed).snapshot(version), model_key(desk.settings.secret()), {"seed": seed})
    with desk.engine.begin() as conn:
        model_store.publish(conn, sealed)
        model_store.give(conn, model_store.Verdict(version, "promoted", "a test", "to see it decide"))
    desk.stages.catalog.refresh()
    snapshot = desk.stages.catalog.judge.snapshot
    assert snapshot is not None
    assert (snapshot.version, snapshot.ready) == (version, True)


def activate(desk: Desk, version: int, document: str) -> None:
    """Make another policy the active one."""
    with desk.engine.begin() as conn:
        conn.execute(_ACTIVATE, {"version": version, "document": document})
        conn.execute(text("UPDATE policy SET active = (version = :version)"), {"version": version})


def mixed(tag: str) -> list[dict[str, Any]]:
    """Events of all types that move points: some quiet, some that fire one rule or several, and their notices."""
    seen = {"device": f"d-{tag}", "ip": "2001:db8::1"}
    return [
        event("account.created", id=f"s-{tag}", account=f"new-{tag}", occurred_at="2026-03-01T01:59:50Z", **seen),
        event(id=f"e1-{tag}", account=f"new-{tag}", points=10, **seen),
        event(id=f"e2-{tag}", account=f"new-{tag}", points=5_000, **seen),
        event(id=f"e3-{tag}", account="rich", points=900),
        event("device.bound", id=f"n-{tag}", account="rich", **seen),
        event("transfer", id=f"t1-{tag}", account="rich", to="bob", points=100, **seen),
        event(id=f"e4-{tag}", account="third", points=3, store="s-1", channel="app", campaign="spring", **seen),
        event("redeem", id=f"r1-{tag}", account="rich", points=1, **seen),
        event("redeem", id=f"r2-{tag}", account="rich", points=90_000, fulfilled=True),
        event("redeem", id=f"r3-{tag}", account="poor", points=7),
        event("redeem", id=f"r4-{tag}", account="rich", points=2, decide_by="2020-01-01T00:00:00Z", **seen),
        event("adjust", id=f"a1-{tag}", account="rich", points=-3, reason="counted twice"),
        event("adjust", id=f"a2-{tag}", account="rich", points=250_000, reason="gift"),
        event(id=f"e5-{tag}", account="past", points=1, program=SIMULATION, occurred_at="2020-01-01T23:00:00+08:00"),
    ]


def check_all(desk: Desk) -> dict[str, Any]:
    """Decide every stored row again and compare; the rows by event id."""
    rows = desk.rows(_ROWS)
    policies = {row.version: load_policy(row.document) for row in desk.rows("SELECT * FROM policy")}
    key = model_key(desk.settings.secret())
    with desk.engine.connect() as conn:
        versions = {row.model_version for row in rows}
        models = {v: None if v is None else model_store.load(conn, key, v) for v in versions}
        book = LayoutBook()
        layouts = {version: book.layout(conn, version) for version in {row.features_version for row in rows}}
    for row in rows:
        fields = stored_fields(row.event_text, row.device, row.ip)
        policy, model = policies[row.policy_version], models[row.model_version]
        layout = layouts[row.features_version]
        again = decide_again(fields, bytes(row.features), layout, row.reasons_text, policy, model)
        stored = (row.score, row.suspicious, row.policy_version, row.model_version)
        assert (again.score, again.suspicious, again.policy_version, again.model_version) == stored, row.event_id
        decided = [reason for reason in row.reasons if reason["kind"] != "ledger"]  # those the ledger added apart
        assert [_plain(reason) for reason in again.reasons] == decided, row.event_id
        if row.code in {"posted", "held", "rejected"}:
            assert again.outcome == row.outcome, row.event_id
    return {row.event_id: row for row in rows}


def _plain(reason: Reason) -> Any:
    """A reason as PostgreSQL's JSON gives it."""
    return json.loads(msgspec.json.encode(reason))


def test_decisions_of_rules_alone(desk: Desk) -> None:
    """Without a model: holds, rejections, suspicious facts, the ledger's refusals, expired requests: all recompute."""
    desk.send(*mixed("a"))
    desk.send(*mixed("b"))
    rows = check_all(desk)
    assert len(rows) == 24
    assert {row.model_version for row in rows.values()} == {None}
    codes = {reason["code"] for row in rows.values() for reason in row.reasons}
    assert codes == {"large", "fresh_account", "busy_device", "forbidden", "insufficient_balance"}
    assert {row.outcome for row in rows.values()} == {"approve", "hold", "reject", "expired"}
    desk.verified()


def test_decisions_of_rules_and_models(desk: Desk) -> None:
    """With two snapshots one after the other: each decision recomputes with the model that it was made with."""
    desk.send(*mixed("a"))
    publish(desk, 1, seed=1)
    desk.send(*mixed("b"))
    publish(desk, 2, seed=2)
    desk.send(*mixed("c"))
    rows = check_all(desk)
    assert {rows[f"e1-{tag}"].model_version for tag in "abc"} == {None, 1, 2}
    said = {reason["kind"] for row in rows.values() for reason in row.reasons}
    assert said >= {"rule", "model"}
    assert rows["e3-b"].score != rows["e3-a"].score


def test_decisions_of_two_policies(desk: Desk) -> None:
    """A policy that is activated between batches decides what comes after it; what came before keeps its own."""
    desk.send(*mixed("a"))
    activate(desk, 2, POLICY.replace("version: 1", "version: 2").replace("limit: 1000\n", "limit: 2\n"))
    desk.stages.catalog.refresh()
    desk.send(*mixed("b"))
    rows = check_all(desk)
    assert (rows["e3-a"].policy_version, rows["e3-a"].outcome) == (1, "approve")
    assert (rows["e3-b"].policy_version, rows["e3-b"].outcome) == (2, "hold")


def test_decisions_of_policies_with_other_features(desk: Desk) -> None:
    """Each layout is written once, with the first batch that uses it; rows of all of them recompute, by name."""
    desk.send(*mixed("a"))
    narrow = POLICY.replace("version: 1", "version: 2").replace(" + ".join(WATCHED), "velocity.ip.sum_1m")
    activate(desk, 2, narrow)
    desk.stages.catalog.refresh()
    desk.send(*mixed("b"))
    desk.send(*mixed("c"))
    rows = check_all(desk)
    layouts = {row.version: row.names for row in desk.rows("SELECT * FROM feature_layout")}
    used = [rows[f"e1-{tag}"].features_version for tag in "abc"]
    assert used[0] != used[1] == used[2]
    assert "velocity.ip.count_1h" in layouts[used[0]]
    assert "velocity.ip.sum_1m" in layouts[used[1]]
    assert len(rows["e1-b"].features) == 8 * len(layouts[used[1]]) < len(rows["e1-a"].features)
    wider, row = load_policy(POLICY), rows["e4-c"]
    stored = Layout(tuple(layouts[used[1]]))
    fields = stored_fields(row.event_text, row.device, row.ip)
    again = decide_again(fields, bytes(row.features), stored, row.reasons_text, wider, None)
    assert (again.score, again.policy_version) == (row.score, 1)


def test_what_was_stored_before_layouts_had_names_can_be_read(desk: Desk) -> None:
    """The features that every decision had until then have their names under the version those rows carry."""
    with desk.engine.connect() as conn:
        first = LayoutBook().layout(conn, "34c4f2895e69e597")
    assert (first.version, first.width, len(first.velocity)) == ("34c4f2895e69e597", 50, 44)
    assert set(INPUT_NAMES) - {*NORM, *LINKS} < set(first.names)


def test_a_batch_is_decided_by_the_policy_it_was_observed_for(desk: Desk) -> None:
    """The catalogue may swap the policy between observation and commit: the values at hand are of the old layout."""
    prepared = desk.prepare(desk.part.records(event(id="e-1", points=5_000)))
    activate(desk, 2, POLICY.replace("version: 1", "version: 2").replace(" + ".join(WATCHED), "velocity.ip.sum_1m"))
    desk.stages.catalog.refresh()
    desk.stages.pipeline.commit(prepared)
    desk.send(event(id="e-2", points=5_000))
    assert {name: row.policy_version for name, row in check_all(desk).items()} == {"e-1": 1, "e-2": 2}


def test_decisions_on_cold_velocity(desk: Desk) -> None:
    """What was decided while velocity was cold recomputes as such, for its reasons say so."""
    store = desk.stages.observer._store
    known = store.epoch
    assert known is not None
    desk.run(store.mark_warm(Epoch("a token that PostgreSQL does not name", known.coverage)))
    store.epoch = known
    desk.send(*mixed("a"))
    rows = check_all(desk)
    assert all("velocity_cold" in {reason["code"] for reason in row.reasons} for row in rows.values())


def test_a_policy_that_changes_in_the_middle_of_a_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue may swap policy and model at any moment: the batch is stored under those that decided it."""
    real = Poster.post

    def post(self: Poster, *args: Any) -> Any:
        done = real(self, *args)
        activate(desk, 2, POLICY.replace("version: 1", "version: 2"))
        publish(desk, 1, seed=1)
        return done

    monkeypatch.setattr(Poster, "post", post)
    desk.send(event(id="e-1", points=5_000))
    monkeypatch.undo()
    desk.send(event(id="e-2", points=5_000))
    versions = {row.event_id: (row.policy_version, row.model_version) for row in check_all(desk).values()}
    assert versions == {"e-1": (1, None), "e-2": (2, 1)}


def test_a_policy_that_cannot_be_used(desk: Desk) -> None:
    """A broken document is refused and the old one goes on deciding; a mended one is taken over."""
    activate(desk, 2, POLICY.replace("version: 1", "version: 2").replace("event.points >= limit", "event.points >>"))
    desk.stages.catalog.refresh()
    desk.send(event(id="e-1"))
    activate(desk, 3, POLICY.replace("version: 1", "version: 3"))
    desk.stages.catalog.refresh()
    desk.send(event(id="e-2"))
    versions = {row.event_id: row.policy_version for row in desk.rows("SELECT event_id, policy_version FROM decision")}
    assert versions == {"e-1": 1, "e-2": 3}


def test_personal_data_is_not_stored(desk: Desk) -> None:
    """Neither device, address, its network nor payment token of an event stands in any table in clear."""
    desk.send(
        event(id="e-1", device="device-of-ann", ip="198.51.100.77", payment="token-of-ann", points=5_000),
        event(id="x", device="device-of-ann", payment="token-of-ann", points=0),
    )
    with desk.engine.connect() as conn:
        tables = conn.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        for table in tables:
            rows = conn.execute(text(f"SELECT t::text FROM {table} t")).scalars().all()  # noqa: S608  # names from the catalogue
            found = [
                row
                for row in rows
                for word in ("device-of-ann", "198.51.100.77", "198.51.100.0", "token-of-ann")
                if word in row or word.encode().hex() in row
            ]
            assert found == [], table
