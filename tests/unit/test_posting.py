"""The pure core of the ledger against an independent model, and its named results one by one."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.movement import (
    MAX_POINTS,
    PENDING,
    POSTED,
    RELEASE,
    Accounts,
    Key,
    Movement,
    OpenHold,
    Settlement,
)
from ledger.plan import Entry, HoldLot, Plan
from ledger.posting import plan as plan_with
from ledger.settling import settle as settle_with
from tests.unit.posting_model import ModelLedger, applied, empty

KEYS = [("north", "ann"), ("north", "bob"), ("north", "cid"), ("south", "ann")]
A, B = KEYS[0], KEYS[1]


NOW = {"north": 10, "south": 10}


def plan(accounts: Accounts, movements: Sequence[Movement], **told: dict[Key, int]) -> Plan:
    """Plan at the tenth millisecond, with ids of its own for further lots."""
    return plan_with(
        accounts, movements, NOW, count(10_000 + 100 * max([one.id for one in movements], default=0)), **told
    )


def settle(accounts: Accounts, settlements: Sequence[Settlement]) -> Plan:
    """Settle at the tenth millisecond."""
    return settle_with(
        accounts, settlements, NOW, count(10_050 + 100 * max([one.txn_id for one in settlements], default=0))
    )


def movement(number: int = 1, kind: str = "earn", points: int = 100, verdict: str = "post", **rest: Any) -> Movement:
    """A movement of ann's in the north, unless said otherwise."""
    given = {"program": "north", "account": "ann", "source": "till", "event_id": f"e{number}", "occurred_ms": 1} | rest
    return Movement(id=number, kind=kind, points=points, verdict=verdict, **given)  # type: ignore[arg-type]  # drawn


def after(*movements: Movement) -> Accounts:
    """Fresh accounts after some movements."""
    start = empty(KEYS)
    return applied(start, plan(start, movements))


def codes(accounts: Accounts, *movements: Movement) -> list[str]:
    """What becomes of movements."""
    return [result.code for result in plan(accounts, movements).results]


def open_hold(held: Movement, parts: Sequence[HoldLot] = ()) -> OpenHold:
    """The hold a movement opened; `parts` tell what any holds reserved."""
    lots = [(part.lot_id, part.amount) for part in parts if part.hold_id == held.id]
    to = held.to if held.kind == "transfer" else None
    return OpenHold(held.id, held.program, held.kind, held.points, held.account, to, lots=tuple(lots))


AMOUNTS = st.one_of(
    st.integers(1, 300), st.sampled_from([0, -1, -40, MAX_POINTS, MAX_POINTS - 50, MAX_POINTS + 1, 2**62])
)
MOVEMENTS = st.builds(
    lambda key, **rest: dict(program=key[0], account=key[1], **rest),
    st.sampled_from(KEYS),
    kind=st.sampled_from(["earn", "redeem", "transfer", "adjust"]),
    points=AMOUNTS,
    verdict=st.sampled_from(["post", "post", "hold", "reject"]),
    fact=st.booleans(),
    to=st.sampled_from(["ann", "bob"]),
)
STEPS = st.lists(
    st.one_of(
        st.lists(MOVEMENTS, min_size=1, max_size=8),
        st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=3),
    ),
    max_size=12,
)


def check_plan(written: Plan, layers: dict[tuple[str, int], int]) -> None:
    """Every transaction sums to zero in every layer; `layers` collects what each layer adds to a programme."""
    by_txn: dict[tuple[int, int], int] = defaultdict(int)
    legs: dict[int, list[int]] = defaultdict(list)
    for entry in written.entries:
        assert entry.amount != 0
        by_txn[entry.txn_id, entry.layer] += entry.amount
        legs[entry.txn_id].append(entry.leg)
    assert set(by_txn.values()) <= {0}
    assert all(numbers == list(range(len(numbers))) for numbers in legs.values())
    assert set(legs) == {txn.txn_id for txn in written.txns}
    for txn in written.txns:
        for layer in (POSTED, PENDING, RELEASE):
            layers[txn.program, layer] += by_txn[txn.txn_id, layer]


def check_numbering(entries: list[Entry], accounts: Accounts) -> None:
    """Members' and arrears' entries are numbered without a gap; control accounts' are not numbered."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for entry in entries:
        if not 1000 < entry.account_id < 2000:
            numbers[entry.account_id].append(entry.account_seq)
        else:
            assert entry.account_seq == 0
    for state in accounts.members.values():
        assert numbers.get(state.account_id, []) == list(range(1, state.entry_count + 1))


def check_states(accounts: Accounts, model: ModelLedger) -> None:
    """Every account says what the model says, and none is overdrawn."""
    for key, state in accounts.members.items():
        card = model.cards[key]
        owed = state.arrears.posted_dr - state.arrears.posted_cr if state.arrears else 0
        seen = (state.posted_cr - state.posted_dr, state.pending_cr, state.pending_dr, owed)
        assert seen == (card.points, card.incoming, card.frozen, card.debt)
        assert state.available >= 0
        assert state.posted_cr + state.pending_cr <= MAX_POINTS
        assert sum(lot.remaining for lot in state.lots) == state.posted_cr - state.posted_dr
        assert sum(lot.reserved for lot in state.lots) == state.pending_dr
        assert all(0 <= lot.reserved <= lot.remaining <= lot.issued for lot in state.lots)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_core_agrees_with_an_independent_model(steps: list[list[Any]]) -> None:
    """Whatever is asked, in whatever batches: same results, same balances, nothing created or destroyed."""
    accounts, model, number = empty(KEYS), ModelLedger(), 0
    entries: list[Entry] = []
    reserved: list[HoldLot] = []
    controls: dict[int, int] = defaultdict(int)
    for step in steps:
        if isinstance(step[0], dict):
            asked = [movement(number + n, **drawn) for n, drawn in enumerate(step, 1) if _possible(drawn)]
            number += len(step)
            written = plan(accounts, asked)
            assert [result.code for result in written.results] == [model.move(one) for one in asked]
        else:
            chosen = {list(model.holds)[n % len(model.holds)]: post for n, post in step if model.holds}
            ends = [
                Settlement(number + n, open_hold(model.holds[hold_id], reserved), "post" if post else "void")
                for n, (hold_id, post) in enumerate(chosen.items(), 1)
            ]
            number += len(ends)
            written = settle(accounts, ends)
            for hold_id, post in chosen.items():
                model.end(hold_id, post=post)
        check_plan(written, defaultdict(int))
        accounts = applied(accounts, written)
        reserved += written.hold_lots
        entries += [entry for entry in written.entries if entry.account_id > 0]
        for change in written.controls:
            controls[change.account_id] += change.posted_cr - change.posted_dr
        check_states(accounts, model)
    check_numbering(entries, accounts)
    check_conservation(accounts, controls, model)


def _possible(drawn: dict[str, Any]) -> bool:
    # bob does not live in the south, and nobody is locked who is not named.
    return (drawn["program"], drawn["to"]) in KEYS or drawn["kind"] != "transfer"


def check_conservation(accounts: Accounts, controls: dict[int, int], model: ModelLedger) -> None:
    """In each programme, what members have less what they owe is what its control accounts gave less what they took."""
    for program in ("north", "south"):
        members = [state for key, state in accounts.members.items() if key[0] == program]
        have = sum(state.posted_cr - state.posted_dr for state in members)
        owe = sum(state.arrears.posted_dr - state.arrears.posted_cr for state in members if state.arrears)
        net = sum(controls[account_id] for (name, _), account_id in accounts.controls.items() if name == program)
        assert have - owe + net == 0
        assert have - owe == model.given[program] - model.taken[program]


@settings(max_examples=100, deadline=None)
@given(st.lists(MOVEMENTS.filter(_possible), min_size=1, max_size=10), st.data())
def test_how_movements_are_batched_changes_nothing(drawn: list[dict[str, Any]], data: st.DataObject) -> None:
    """One batch of ten or ten of one: the same results and the same accounts."""
    asked = [movement(n, **each) for n, each in enumerate(drawn, 1)]
    at = data.draw(st.integers(0, len(asked)))
    start = empty(KEYS)
    whole = plan(start, asked)
    first = plan(start, asked[:at])
    middle = applied(start, first)
    second = plan(middle, asked[at:])
    assert whole.results == first.results + second.results
    assert _counters(applied(start, whole)) == _counters(applied(middle, second))


def _counters(accounts: Accounts) -> dict[Key, object]:
    return {key: (state[:6], state.arrears and state.arrears[1:]) for key, state in accounts.members.items()}


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (movement(2, points=5), "posted"),
        (movement(2, points=5, verdict="hold"), "held"),
        (movement(2, points=5, verdict="reject"), "rejected"),
        (movement(2, points=0), "points_out_of_range"),
        (movement(2, points=-5), "points_out_of_range"),
        (movement(2, points=MAX_POINTS + 1), "points_out_of_range"),
        (movement(2, kind="adjust", points=0), "points_out_of_range"),
        (movement(2, kind="adjust", points=-MAX_POINTS - 1), "points_out_of_range"),
        (movement(2, kind="transfer", points=5, to="ann"), "same_account"),
        (movement(2, kind="transfer", points=5), "same_account"),
        (movement(2, points=MAX_POINTS), "balance_out_of_range"),
        (movement(2, points=MAX_POINTS, verdict="hold"), "balance_out_of_range"),
        (movement(2, kind="redeem", points=101), "insufficient_balance"),
        (movement(2, kind="redeem", points=101, verdict="hold"), "insufficient_balance"),
        (movement(2, kind="transfer", points=101, to="bob"), "insufficient_balance"),
        (movement(2, kind="adjust", points=-101), "insufficient_balance"),
        (movement(2, kind="redeem", points=101, fact=True), "posted"),
        (movement(2, kind="redeem", points=101, fact=True, verdict="hold"), "posted"),
        (movement(2, kind="redeem", points=101, fact=True, verdict="reject"), "posted"),
        (movement(2, points=5, fact=True, verdict="hold"), "held"),
    ],
)
def test_each_result_has_its_name(asked: Movement, code: str) -> None:
    """On a balance of 100, every kind of movement gets the result its docstring names."""
    assert codes(after(movement(1, points=100)), asked) == [code]


def test_a_refused_movement_leaves_everything_as_it_was() -> None:
    """A batch of refusals writes nothing at all, not even a transaction."""
    start = after(movement(1, points=100))
    refused = plan(
        start,
        [movement(2, verdict="reject"), movement(3, kind="redeem", points=101), movement(4, points=0)],
    )
    assert refused == Plan(results=refused.results)


def test_one_refusal_does_not_spoil_the_batch() -> None:
    """The movements around a refused one are decided as if it were not there."""
    start = empty(KEYS)
    assert codes(
        start, movement(1), movement(2, kind="redeem", points=101), movement(3, kind="redeem", points=100)
    ) == [
        "posted",
        "insufficient_balance",
        "posted",
    ]


def test_held_points_cannot_be_spent() -> None:
    """A pending debit counts against the balance, a pending credit does not count for it."""
    start = after(movement(1, points=100), movement(2, points=50, verdict="hold"))
    assert codes(
        start, movement(3, kind="redeem", points=60, verdict="hold"), movement(4, kind="redeem", points=41)
    ) == [
        "held",
        "insufficient_balance",
    ]


def test_a_shortfall_becomes_arrears_and_the_next_inflow_repays_them() -> None:
    """A fact of 130 on 100 leaves a debt of 30; an earn of 50 then pays it back and leaves 20."""
    start = after(movement(1, points=100), movement(2, kind="redeem", points=130, fact=True))
    owed = start.members[A]
    assert owed.arrears is not None
    assert (owed.available, owed.arrears.posted_dr - owed.arrears.posted_cr) == (0, 30)
    result = plan(start, [movement(3, points=50)]).results[0]
    assert (result.available, result.owed) == (20, 0)


def test_arrears_made_and_repaid_in_one_batch() -> None:
    """An arrears account that does not exist yet already works within its batch."""
    written = plan(empty(KEYS), [movement(1, kind="redeem", points=30, fact=True), movement(2, points=30)])
    assert [(result.available, result.owed) for result in written.results] == [(0, 30), (0, 0)]
    assert [(new.program, new.name) for new in written.new_arrears] == [A]


def test_posting_a_held_earn_repays_arrears() -> None:
    """What was approved late pays a debt that came in between."""
    held = movement(1, points=100, verdict="hold")
    start = after(held, movement(2, kind="redeem", points=30, fact=True))
    done = applied(start, settle(start, [Settlement(3, open_hold(held), "post")]))
    state = done.members[A]
    assert (state.available, state.pending_cr) == (70, 0)


@pytest.mark.parametrize("verdict", ["post", "void"])
@pytest.mark.parametrize(
    ("kind", "points"), [("earn", 40), ("redeem", 40), ("transfer", 40), ("adjust", 40), ("adjust", -40)]
)
def test_every_kind_of_hold_ends_either_way(kind: str, points: int, verdict: str) -> None:
    """Held and voided is as if never asked; held and posted is as if posted at once; nothing stays pending."""
    first, asked = movement(1, points=100), movement(2, kind=kind, points=points, verdict="hold", to="bob")
    start = after(first, asked)
    parts = [HoldLot(2, lot.lot_id, lot.reserved) for lot in start.members[A].lots if lot.reserved]
    ended = applied(start, settle(start, [Settlement(3, open_hold(asked, parts), verdict)]))  # type: ignore[arg-type]  # one of two
    plain = after(first, movement(2, kind=kind, points=points, to="bob")) if verdict == "post" else after(first)
    for key in (A, B):
        state, other = ended.members[key], plain.members[key]
        assert (state.posted_dr, state.posted_cr, state.available) == (
            other.posted_dr,
            other.posted_cr,
            other.available,
        )
        assert (state.pending_dr, state.pending_cr) == (0, 0)


def test_a_hold_reserves_its_place_below_the_bound() -> None:
    """What is pending counts against the highest balance, so that posting it later cannot fail."""
    held = movement(1, points=MAX_POINTS - 10, verdict="hold")
    start = after(held)
    assert codes(start, movement(2, points=11), movement(3, points=10)) == ["balance_out_of_range", "posted"]
    ended = applied(start, settle(start, [Settlement(4, open_hold(held), "post")]))
    assert ended.members[A].available == MAX_POINTS - 10


def test_facts_about_accounts_ride_along() -> None:
    """A sign-up or a changed credential is kept even where no points move."""
    written = plan(empty(KEYS), [], signed_up={A: 5}, credential_changed={B: 7})
    assert [(change.account_id, change.signed_up_ms, change.credential_changed_ms) for change in written.changes] == [
        (1, 5, 0),
        (2, 0, 7),
    ]


def test_the_deltas_of_a_batch_of_giants_fit_their_columns() -> None:
    """A thousand of the largest postings in one batch do not overflow a bigint of the control account."""
    keys = [("north", f"m{n}") for n in range(1100)]
    written = plan(empty(keys), [movement(n, points=MAX_POINTS, account=f"m{n}") for n in range(1100)])
    assert max(change.posted_dr for change in written.controls) < 2**63
    assert sum(change.posted_dr for change in written.controls) == 1100 * MAX_POINTS


def test_an_unknown_kind_is_a_programming_error() -> None:
    """The contract of events names the kinds; anything else stops the worker rather than guess."""
    with pytest.raises(ValueError, match="unknown kind"):
        plan(empty(KEYS), [movement(1, kind="gift")])


def test_an_account_that_was_not_locked_is_a_programming_error() -> None:
    """No movement is decided on a balance nobody has read."""
    with pytest.raises(KeyError):
        plan(empty(KEYS), [movement(1, account="dora")])
