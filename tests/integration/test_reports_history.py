"""Whatever happens, the past stays as it was told: balances, lots, liability, statements, settlements of any moment."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from ledger.clearing_store import settlement
from ledger.history import find_account, place_at, standing_at
from ledger.liability import Liability
from ledger.liability_store import liability, roll
from ledger.lines import Place, Standing
from ledger.queries import Balance, balance, lots
from ledger.statements import Paging, Statement, StatementLine, Wanted, statement
from tests.integration.ledger_writer import pool
from tests.integration.reports_town import NAMES, Town
from tests.services import Databases

STEPS = 200


@pytest.fixture(scope="module")
def town(databases: Databases, template: str, seed: int) -> Iterator[Town]:
    """A town with some days behind it, which the tests only look at."""
    with databases.fresh(template) as url, pool(url) as engine:
        town = Town(engine)
        chance = random.Random(seed)
        town.live(STEPS, chance)
        town.merge("dan", "cat")
        town.live(STEPS // 4, chance)
        yield town


def test_the_town_has_seen_everything(town: Town) -> None:
    """What the other tests look at is there: kinds of lines, steps, debts, and flows between stores."""
    lines = [line for name in NAMES for line in page(town, name, Paging(size=10_000)).lines]
    assert {line.kind for line in lines} >= {"earn", "redeem", "transfer", "adjust", "reverse", "expire", "merge"}
    assert {line.step for line in lines} == {"posted", "held", "approved", "released"}
    assert any(line.change.posted == 0 and line.change.owed for line in lines)
    with town.engine.connect() as conn:
        told = settlement(conn, town.program, town.programs(conn)[town.program].terms, 0, town.now + 1)
    assert {flow.kind for flow in told.flows} >= {"redeemed", "repaid"}
    assert sum(store.breakage for store in told.stores) > 0


def page(town: Town, name: str, paging: Paging, wanted: Wanted | None = None) -> Statement:
    """A page of somebody's statement."""
    with town.engine.connect() as conn:
        found = statement(conn, town.program, name, wanted, paging)
    assert found is not None
    return found


def walk(town: Town, name: str, size: int, *, newer: bool) -> list[int]:
    """Read a whole statement in pages one way; its transactions from the newest to the oldest."""
    ids: list[int] = []
    found = page(town, name, Paging(None, newer, size))
    while True:
        told = [line.txn_id for line in found.lines]
        ids = told + ids if newer else ids + told
        place = found.newer if newer else found.older
        if place is None:
            return ids
        found = page(town, name, Paging(place, newer, size))


def test_the_past_is_told_as_it_was(town: Town) -> None:
    """Every balance, every lot and the whole liability as of each moment are what the ledger said at that moment."""
    with town.engine.connect() as conn:
        terms = town.programs(conn)[town.program].terms
        for at, said in town.said.items():
            for name in NAMES:
                then = said.balances[name] or Balance(0, 0, 0, 0, 0)  # before anything named the account
                assert balance(conn, town.program, name, at) == then, (name, at)
                assert lots(conn, town.program, name, at) == said.lots[name], (name, at)
            assert liability(conn, town.program, terms, at) == said.liability, at


def test_lots_hold_what_the_balance_says(town: Town) -> None:
    """At each moment, lots sum up to posted points, what they reserve to what is set aside, the due rest to lapsed."""
    for at, said in town.said.items():
        for name, found in said.balances.items():
            if found is not None:
                held = said.lots[name]
                assert sum(lot.remaining for lot in held) == found.posted
                assert sum(lot.reserved for lot in held) == found.pending_out
                assert sum(lot.free for lot in held if lot.due(at)) == found.lapsed
                assert found.available == found.posted - found.pending_out - found.lapsed >= 0


def test_the_liability_is_what_accounts_have(town: Town) -> None:
    """In all, members' and pools' points are the liability's outstanding ones, and so on for each of its figures."""
    for said in town.said.values():
        standing = [found for name in said.names if (found := said.balances[name]) is not None]
        told: Liability = said.liability
        assert told.outstanding == sum(found.posted for found in standing)
        assert told.lapsed == sum(found.lapsed for found in standing)
        assert told.held_out == sum(found.pending_out for found in standing)
        assert told.owed == sum(found.owed for found in standing)


def test_periods_roll_and_settle(town: Town, rng: random.Random) -> None:
    """Any period adds up from opening to closing, its settlement sums to zero and is traced, and periods add up too."""
    moments = sorted(town.said)
    with town.engine.connect() as conn:
        terms = town.programs(conn)[town.program].terms
        for _ in range(12):
            since, middle, until = sorted(rng.sample(moments, 3))
            rolls = [
                roll(conn, town.program, terms, *span) for span in ((since, middle), (middle, until), (since, until))
            ]
            assert all(one.adds_up for one in rolls)
            assert (rolls[0].closing, rolls[0].opening) == (rolls[1].opening, rolls[2].opening)
            settled = [settlement(conn, town.program, terms, *span) for span in ((since, middle), (middle, until))]
            whole = settlement(conn, town.program, terms, since, until)
            assert all(one.sums_to_zero and one.is_traced for one in (*settled, whole))
            for store in whole.stores:
                parts = [one for part in settled for one in part.stores if one.store == store.store]
                assert store.issued == sum(one.issued for one in parts)
                assert store.redeemed == sum(one.redeemed for one in parts)
                assert (store.breakage, store.balance) == (sum(one.breakage for one in parts), parts[-1].balance)


def test_a_merged_member_is_the_other_one_from_then_on(town: Town) -> None:
    """The name answers with the other account's figures, its own statement ends with the merge, and its past stays."""
    last = town.said[town.now]
    assert last.balances["dan"] == last.balances["cat"]
    found = page(town, "dan", Paging(size=10_000))
    assert found.merged_into == "cat"
    assert found.lines[0].kind == "merge"
    assert found.lines[0].standing == Standing()
    assert (found.lines[0].cause.actor, found.lines[0].cause.reason) == ("ann", "one person")


def test_what_a_store_funded_is_all_accounted_for(town: Town) -> None:
    """A store's net position is what its account moved by, with the points it funded that are still out or expired."""
    with town.engine.connect() as conn:
        terms = town.programs(conn)[town.program].terms
        told = settlement(conn, town.program, terms, 0, town.now + 1)
        left: dict[str, int] = {}
        for name in town.said[town.now].names:
            for lot in town.said[town.now].lots[name]:
                left[lot.store or ""] = left.get(lot.store or "", 0) + lot.remaining
        adjusted = _adjusted(town)
    positions = {party: points for party, (points, _) in told.positions.items()}
    for store in told.stores:
        out = left.get(store.store, 0) + store.breakage + store.cancelled - adjusted.get(store.store, 0)
        assert positions.get(store.store, 0) == store.balance + out, store


def _adjusted(town: Town) -> dict[str, int]:
    """Points given by hand in a store's name: its lots, but not its account."""
    asked = text("""
        SELECT l.store, sum(l.issued) FROM lot l JOIN txn t USING (txn_id) LEFT JOIN hold h ON h.hold_id = t.resolves
         WHERE coalesce(h.kind, t.kind) = 'adjust' AND l.parent IS NULL AND l.store IS NOT NULL GROUP BY l.store""")
    with town.engine.connect() as conn:
        return {row[0]: int(row[1]) for row in conn.execute(asked)}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pages_are_the_same_both_ways(town: Town, size: int) -> None:
    """Statement pages of any size, from either end, tell every line once and in one order."""
    for name in NAMES:
        whole = walk(town, name, 10_000, newer=False)
        assert walk(town, name, size, newer=False) == whole
        assert walk(town, name, size, newer=True) == whole
        assert len(set(whole)) == len(whole)


def test_running_balances_are_those_of_the_moment(town: Town) -> None:
    """Behind its last line of a moment an account stood as it did at that moment, and before its first at nothing."""
    for name in NAMES:
        lines = page(town, name, Paging(size=10_000)).lines
        with town.engine.connect() as conn:
            account = find_account(conn, town.program, name)
            assert account is not None
            seen = set()
            for line in lines:
                if line.recorded_at not in seen:
                    seen.add(line.recorded_at)
                    at = int(line.recorded_at.timestamp() * 1000)
                    assert standing_at(conn, account, place_at(conn, account, at)) == line.standing
        if lines:
            assert lines[0].standing == account.standing
            assert lines[-1].standing.plus(lines[-1].change, -1) == Standing()


def test_lines_of_a_kind_and_a_time_are_those_lines(town: Town, rng: random.Random) -> None:
    """A filter leaves lines out and changes nothing else: not a balance, not a cause."""
    for name in NAMES:
        lines = page(town, name, Paging(size=10_000)).lines
        since, until = sorted(rng.sample(sorted(town.said), 2))
        kinds = frozenset(rng.sample(["earn", "redeem", "transfer", "expire", "reverse"], 2))
        wanted = Wanted(since, until, kinds)
        found = page(town, name, Paging(size=10_000), wanted).lines
        fits = [
            line for line in lines if line.kind in kinds and since <= round(line.recorded_at.timestamp() * 1000) < until
        ]
        assert list(found) == fits
        pages: list[StatementLine] = []
        place: Place | None = None
        while True:
            part = page(town, name, Paging(place, size=3), wanted)
            pages += part.lines
            place = part.older
            if place is None:
                break
        assert pages == fits


def test_a_place_beyond_the_end_is_the_end(town: Town) -> None:
    """A cursor of another account or of nobody shows no line that is not the account's."""
    assert page(town, "ann", Paging(Place(10**6, 10**6))).lines == page(town, "ann", Paging()).lines
    assert page(town, "ann", Paging(Place(10**6, 10**6), newer=True)).lines == ()
