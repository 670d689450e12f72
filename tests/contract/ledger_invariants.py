"""The invariants of reference/ledger.md that bear on a ledger by itself, each a function over everything there is.

`holds_after(step)` is what a test calls: it names the invariant that broke and tells on what. I12 (caps) belongs to the
programmes, I13 and the adjustments' part of I15 to whoever drives a ledger.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ledger.book import Dump, DumpAccount
from ledger.movement import OWN, PENDING, POSTED, LotState
from ledger.plan import LotUse, Txn

GUARDED = {"member", "pool"}
SPENDS = {"debit", "transfer"}


@dataclass(frozen=True)
class Step:
    """A ledger before and after a call, and the ledger's time by programme during it."""

    before: Dump
    after: Dump
    now: Mapping[str, int]

    @cached_property
    def accounts(self) -> dict[int, DumpAccount]:
        """Accounts by id."""
        return {account.account_id: account for account in self.after.accounts}

    @cached_property
    def txns(self) -> dict[int, Txn]:
        """Transactions by id."""
        return {txn.txn_id: txn for txn in self.after.txns}

    @cached_property
    def lots(self) -> dict[int, LotState]:
        """Lots by id."""
        return {lot.lot_id: lot for lot in self.after.lots}

    @cached_property
    def new_uses(self) -> list[LotUse]:
        """What the call did to lots."""
        known = set(self.before.lot_uses)
        return [use for use in self.after.lot_uses if use not in known]


def holds_after(step: Step) -> None:
    """Raise AssertionError with the name of the first invariant that does not hold, and what breaks it."""
    for invariant in INVARIANTS:
        for broken in invariant(step):
            raise AssertionError(f"{invariant.__name__}: {broken}")


def i1_conservation(step: Step) -> Iterable[str]:
    """In each programme all debits equal all credits, posted and pending."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in step.after.accounts:
        sums[one.program]["posted"] += one.posted_cr - one.posted_dr
        sums[one.program]["pending"] += one.pending_cr - one.pending_dr
    for program, found in sums.items():
        if any(found.values()):
            yield f"{program} is off by {dict(found)}"


def i2_balances_are_the_replay(step: Step) -> Iterable[str]:
    """Every account's counters are what its entries add up to."""
    replayed: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for entry in step.after.entries:
        counters = replayed[entry.account_id]
        pair = 0 if entry.layer == POSTED else 2
        sign = 1 if entry.layer in {POSTED, PENDING} else -1
        counters[pair + (entry.amount > 0)] += sign * abs(entry.amount)
        counters[4] += entry.account_seq > 0
    for one in step.after.accounts:
        told = [one.posted_dr, one.posted_cr, one.pending_dr, one.pending_cr, one.entry_count]
        found = replayed[one.account_id]
        if told[:4] != found[:4] or (one.kind in {*GUARDED, "arrears"} and told[4] != found[4]):
            yield f"{one.kind} {one.name} of {one.program}: {told}, replayed {found}"


def i3_nothing_is_overdrawn(step: Step) -> Iterable[str]:
    """No guarded account has less than nothing to spend, holds included; no member is owed by us."""
    for one in step.after.accounts:
        if one.kind in GUARDED and one.posted_cr - one.posted_dr - one.pending_dr < 0:
            yield f"{one}"
        if one.kind == "arrears" and (one.posted_dr < one.posted_cr or one.pending_dr or one.pending_cr):
            yield f"{one}"
        if min(one[4:10]) < 0 and one.kind in GUARDED:
            yield f"{one}"


def i4_holds_end_once(step: Step) -> Iterable[str]:
    """A hold ends at most once, by a recorded decision, and posts no more than it held."""
    ends = Counter(txn.resolves for txn in step.after.txns if txn.resolves is not None)
    reviews = {(review.decision_id, review.hold_id): review for review in step.after.reviews}
    counted: Counter[int] = Counter()
    for hold in step.after.holds:
        counted[hold.account_id] += hold.decision_id is None
        if ends[hold.hold_id] != (hold.decision_id is not None):
            yield f"{hold} is ended by {ends[hold.hold_id]} transactions"
        if hold.decision_id is None:
            continue
        review = reviews.get((hold.decision_id, hold.hold_id))
        if review is None or review.verdict != hold.verdict or hold.verdict not in {"post", "void"}:
            yield f"{hold} ended by {review}"
        posted = hold.posted or 0
        if not (0 < posted <= abs(hold.amount) if hold.verdict == "post" else posted == 0):
            yield f"{hold} posted {posted}"
    for one in step.after.accounts:
        if one.open_holds != counted[one.account_id]:
            yield f"{one} has {counted[one.account_id]} open holds"


def i4_held_again_only_for_the_rest(step: Step) -> Iterable[str]:
    """A hold that replaces another is smaller, and the other was voided."""
    holds = {hold.hold_id: hold for hold in step.after.holds}
    for hold in step.after.holds:
        old = holds.get(hold.replaces) if hold.replaces is not None else None
        if hold.replaces is None:
            continue
        if old is None or old.verdict != "void" or not 0 < abs(hold.amount) < abs(old.amount):
            yield f"{hold} replaces {old}"


def i5_once_per_event(step: Step) -> Iterable[str]:
    """No event has more than one transaction."""
    outside = [txn for txn in step.after.txns if txn.source is not None and not txn.source.startswith(OWN)]
    events = [(txn.program, txn.source, txn.event_id) for txn in outside]
    for event, count in Counter(events).items():
        if count > 1:
            yield f"{event} has {count} transactions"


def i6_nothing_is_changed(step: Step) -> Iterable[str]:
    """What was written stays as it was: only counters, what is left of lots and the end of a hold are added to."""
    for table in ("txns", "entries", "lot_uses", "hold_lots", "reviews", "reversals", "merges"):
        gone = set(getattr(step.before, table)) - set(getattr(step.after, table))
        if gone:
            yield f"{table}: {sorted(gone)[:3]} are gone or changed"
    for lot in step.before.lots:
        now = step.lots.get(lot.lot_id)
        if now is None or now._replace(remaining=lot.remaining, reserved=lot.reserved) != lot:
            yield f"{lot} became {now}"
    holds = {hold.hold_id: hold for hold in step.after.holds}
    for hold in step.before.holds:
        later = holds.get(hold.hold_id)
        if later is None or later[:7] != hold[:7] or (hold.decision_id is not None and later != hold):
            yield f"{hold} became {later}"


def i7_transactions_are_whole(step: Step) -> Iterable[str]:
    """A transaction has at least two entries in each layer it uses, which sum to zero, all in its own programme."""
    layers: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    with_entries = set()
    for entry in step.after.entries:
        layers[entry.txn_id, entry.layer].append(entry.amount)
        with_entries.add(entry.txn_id)
        txn, one = step.txns.get(entry.txn_id), step.accounts.get(entry.account_id)
        if txn is None or one is None or txn.program != one.program:
            yield f"{entry} is of {txn} and {one}"
    for (txn_id, layer), amounts in layers.items():
        if sum(amounts) or len(amounts) < 2:
            yield f"{step.txns[txn_id]} has {amounts} in layer {layer}"
    bare = [txn for txn in step.after.txns if txn.txn_id not in with_entries]
    if bare:
        yield f"{bare} have no entries"


def i9_lots_are_the_balance(step: Step) -> Iterable[str]:
    """An account's lots sum to its balance and what is reserved to what is pending; uses explain what is left."""
    left: Counter[int] = Counter()
    reserved: Counter[int] = Counter()
    used: Counter[int] = Counter()
    for use in step.after.lot_uses:
        used[use.lot_id] += -use.amount if use.action == "restore" else use.amount
        if use.txn_id not in step.txns or use.lot_id not in step.lots or use.amount <= 0:
            yield f"{use} belongs to nothing"
    for lot in step.after.lots:
        left[lot.account_id] += lot.remaining
        reserved[lot.account_id] += lot.reserved
        if not 0 <= lot.reserved <= lot.remaining <= lot.issued:
            yield f"{lot}"
        if lot.issued - lot.remaining != used[lot.lot_id]:
            yield f"{lot} was used for {used[lot.lot_id]}"
    for one in step.after.accounts:
        balance = (one.posted_cr - one.posted_dr, one.pending_dr) if one.kind in GUARDED else (0, 0)
        if (left[one.account_id], reserved[one.account_id]) != balance:
            yield f"{one} has lots of {left[one.account_id]}, {reserved[one.account_id]} reserved"


def i9_reserved_is_held(step: Step) -> Iterable[str]:
    """What is reserved of a lot is what open holds say of it, and a hold that takes reserves all it holds."""
    lots: Counter[int] = Counter()
    sums: Counter[int] = Counter()
    is_open = {hold.hold_id: hold.decision_id is None for hold in step.after.holds}
    for part in step.after.hold_lots:
        sums[part.hold_id] += part.amount
        lots[part.lot_id] += part.amount if is_open[part.hold_id] else 0
    for lot in step.after.lots:
        if lot.reserved != lots[lot.lot_id]:
            yield f"{lot}, held {lots[lot.lot_id]}"
    for hold in step.after.holds:
        takes = hold.kind in {"redeem", "transfer"} or hold.amount < 0
        if sums[hold.hold_id] != (abs(hold.amount) if takes else 0):
            yield f"{hold} reserves {sums[hold.hold_id]}"


def i9_children_come_from_their_parents(step: Step) -> Iterable[str]:
    """A lot moved out of another holds no more than its transaction moved out of that, and never a longer story."""
    moved: Counter[tuple[int, int]] = Counter()
    for use in step.after.lot_uses:
        moved[use.txn_id, use.lot_id] += use.amount if use.action == "transfer" else 0
    given: Counter[tuple[int, int]] = Counter()
    for lot in step.after.lots:
        if lot.parent is not None:
            given[lot.txn_id, lot.parent] += lot.issued
            parent = step.lots[lot.parent]
            if (parent.earned_ms, parent.program) != (lot.earned_ms, lot.program):
                yield f"{lot} comes from {parent}"
    for key, points in given.items():
        if points > moved[key]:
            yield f"transaction and lot {key}: {points} given, {moved[key]} moved out"


def i10_lots_die_in_time(step: Step) -> Iterable[str]:
    """Nothing expires early, nothing that is set aside expires, and nothing due is spent unless it was set aside."""
    before = {lot.lot_id: lot for lot in step.before.lots}
    for use in step.new_uses:
        lot, txn = step.lots[use.lot_id], step.txns[use.txn_id]
        due = lot.expires_ms is not None and lot.expires_ms <= step.now[lot.program]
        if use.action == "expire" and not due:
            yield f"{use} of {lot} at {step.now[lot.program]}"
        if use.action in SPENDS and due and txn.kind in {"redeem", "transfer", "adjust"} and lot.lot_id in before:
            yield f"{use} spends {lot} at {step.now[lot.program]}"


def i11_no_more_back_than_there_was(step: Step) -> Iterable[str]:
    """No movement is taken back, and no order is clawed or restored, for more than it moved."""
    amounts = {txn.txn_id: (abs(txn.amount), txn.order) for txn in step.after.txns if txn.source is not None}
    back: Counter[int] = Counter()
    for reversal in step.after.reversals:
        back[reversal.original] += reversal.points
        if reversal.points != sum(reversal[4:13]) or min(reversal[3:13]) < 0:
            yield f"{reversal} does not add up"
    for original, points in back.items():
        if points > amounts[original][0]:
            yield f"transaction {original} moved {amounts[original]}, taken back {points}"


def i14_sequences_ascend(step: Step) -> Iterable[str]:
    """An account's entries are numbered from 1 without a gap, in the order in which they were written."""
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for entry in step.after.entries:
        if entry.account_seq:
            numbers[entry.account_id].append(entry.account_seq)
    old = {(entry.txn_id, entry.leg) for entry in step.before.entries}
    highest: Counter[int] = Counter()
    for entry in step.before.entries:
        highest[entry.account_id] = max(highest[entry.account_id], entry.account_seq or 0)
    for one in step.after.accounts:
        if sorted(numbers[one.account_id]) != list(range(1, len(numbers[one.account_id]) + 1)):
            yield f"{one.name}: {sorted(numbers[one.account_id])}"
    for entry in step.after.entries:
        if (
            entry.account_seq
            and (entry.txn_id, entry.leg) not in old
            and entry.account_seq <= highest[entry.account_id]
        ):
            yield f"{entry} is new, {highest[entry.account_id]} was there"


def i15_everybody_signs(step: Step) -> Iterable[str]:
    """Every decision on a hold and every merge says who made it."""
    for review in step.after.reviews:
        if not review.actor:
            yield f"{review}"
    for merge in step.after.merges:
        if not merge.actor or not merge.reason:
            yield f"{merge}"


INVARIANTS: tuple[Callable[[Step], Iterable[str]], ...] = (
    i1_conservation,
    i2_balances_are_the_replay,
    i3_nothing_is_overdrawn,
    i4_holds_end_once,
    i4_held_again_only_for_the_rest,
    i5_once_per_event,
    i6_nothing_is_changed,
    i7_transactions_are_whole,
    i9_lots_are_the_balance,
    i9_reserved_is_held,
    i9_children_come_from_their_parents,
    i10_lots_die_in_time,
    i11_no_more_back_than_there_was,
    i14_sequences_ascend,
    i15_everybody_signs,
)
