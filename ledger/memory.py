"""The ledger in memory: the twin of PostgreSQL's, with the same pure core, for tests, dry runs and simulations.

Nothing is kept when the process ends, and one thread uses it at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import groupby, islice

from ledger.book import (
    TIMEOUT_ACTOR,
    TIMEOUT_REASON,
    Dump,
    MemberView,
    Merge,
    Mode,
    OrderRefund,
    Outcome,
    Resolution,
    Resolved,
)
from ledger.expiry import expire
from ledger.lots import order_of_use
from ledger.memory_dump import dump
from ledger.memory_origins import find_origin, origins_of_order, with_origins
from ledger.memory_tables import CONTROLS, HoldRow, ProgramRow, ReviewRow, Tables
from ledger.merging import plan_merge
from ledger.movement import POOL, Accounts, Key, LotState, Movement, OpenHold, Result, Settlement
from ledger.posting import plan
from ledger.refunds import REFUND_SOURCE, plan_refund
from ledger.settling import settle
from ledger.terms import DEFAULT_TERMS, Terms, check_change


class MemoryLedger:
    """A `ledger.book.Ledger` in memory. A live programme's clock, too, stands where `advance` put it."""

    def __init__(self) -> None:
        self.tables = Tables()

    # -- programmes

    def create_program(self, name: str, mode: Mode = "simulation", terms: Terms = DEFAULT_TERMS) -> None:
        """Create a programme, or change the terms of one that exists (TermsError where they are for life)."""
        tables = self.tables
        row = tables.programs.get(name)
        if row is None:
            tables.programs[name] = ProgramRow(mode, terms)
            for control in CONTROLS:
                tables.open_account(name, "control", control, 0)
        else:
            check_change(row.terms, terms)
            row.terms = terms

    def advance(self, program: str, epoch_ms: int) -> None:
        """Move a programme's clock up to `epoch_ms`; it never goes back."""
        row = self.tables.programs[program]
        row.clock = max(row.clock, epoch_ms)

    def take_ids(self, count: int) -> list[int]:
        """Take new ids for decisions, ascending."""
        return list(islice(self.tables.ids, count))

    def _now(self) -> dict[str, int]:
        return {name: row.clock for name, row in self.tables.programs.items()}

    # -- movements

    def post(self, movements: Sequence[Movement]) -> list[Result]:
        """Decide movements in order, as one batch; accounts named for the first time are opened.

        A reverse is planned by itself, so that it sees what came before it in the batch.
        """
        results: list[Result] = []
        for reverse, group in groupby(movements, key=lambda one: one.id if one.kind == "reverse" else None):
            asked = list(group)
            accounts = self._accounts(asked)
            if reverse is not None:
                accounts = self._with_origin(accounts, asked[0])
            planned = plan(accounts, asked, self._now(), self.tables.ids)
            self.tables.write(planned, self._now())
            self.tables.events.update({(one.source, one.event_id): one for one in asked})
            results += planned.results
        return results

    def _accounts(self, movements: Iterable[Movement]) -> Accounts:
        tables, keys, stores = self.tables, list[Key](), dict[Key, int]()
        for one in movements:
            row = tables.programs[one.program]
            names = [one.account, *([one.to] if one.kind == "transfer" and one.to is not None else [])]
            for name in names:
                if not name.startswith(POOL):
                    tables.open_account(one.program, "member", name, row.clock)
            names += [] if one.pool is None else [POOL + one.pool]
            keys += [(one.program, name) for name in names]
            if one.store is not None and row.terms.funding == "store":
                store = tables.open_account(one.program, "store", one.store, row.clock)
                stores[one.program, one.store] = store.account_id
        return self._locked(keys, stores)

    def _with_origin(self, accounts: Accounts, movement: Movement) -> Accounts:
        reverses = movement.reverses or ("", "")
        origin = find_origin(self.tables, *reverses)
        if origin is None or origin.program != movement.program:
            return accounts
        return replace(with_origins(self.tables, accounts, [origin]), origins={reverses: origin})

    def _locked(self, keys: Iterable[Key], stores: dict[Key, int]) -> Accounts:
        tables = self.tables
        rows = {key: row for key in keys if (row := tables.find(key)) is not None}
        programs = {key[0] for key in rows}
        pools = {
            key: frozenset(tables.acting(tables.accounts[member]).name for member in tables.pools[row.account_id])
            for key, row in rows.items()
            if row.kind == "pool"
        }
        controls = {key: account_id for name in programs for key, account_id in tables.controls(name).items()}
        terms = {name: tables.programs[name].terms for name in programs}
        return Accounts({key: tables.state(row) for key, row in rows.items()}, controls, stores, pools, terms)

    # -- holds

    def resolve(self, resolutions: Sequence[Resolution]) -> list[Resolved]:
        """End holds, each at most once in its life, in order."""
        outcomes = self._judge(resolutions)
        decided = [n for n, outcome in enumerate(outcomes) if outcome in {"resolved", "escalated"}]
        ids = dict(zip(decided, self.take_ids(len(decided)), strict=True))
        for n in decided:
            self._decide(ids[n], resolutions[n])
        return [
            self._told(resolution, outcome, ids.get(n))
            for n, (resolution, outcome) in enumerate(zip(resolutions, outcomes, strict=True))
        ]

    def _judge(self, resolutions: Sequence[Resolution]) -> list[Outcome]:
        still_open = {hold_id for hold_id, row in self.tables.holds.items() if row.end is None}
        outcomes: list[Outcome] = []
        for resolution in resolutions:
            row = self.tables.holds.get(resolution.hold_id)
            if row is None:
                outcomes.append("unknown_hold")
            elif resolution.hold_id not in still_open:
                outcomes.append("already_resolved")
            elif resolution.verdict == "escalate":
                outcomes.append("escalated")
            elif not _fits(resolution, row):
                outcomes.append("points_out_of_range")
            else:
                still_open.remove(resolution.hold_id)
                outcomes.append("resolved")
        return outcomes

    def _decide(self, decision_id: int, resolution: Resolution) -> None:
        tables, hold_id, verdict = self.tables, resolution.hold_id, resolution.verdict
        row = tables.holds[hold_id]
        if verdict == "escalate":
            row.due_ms = None
            now = tables.programs[row.hold.program].clock
            tables.reviews.append(ReviewRow(decision_id, hold_id, verdict, resolution.actor, resolution.reason, now))
            return
        hold = tables.open_hold(hold_id)
        points = resolution.points if verdict == "post" else None
        settlement = Settlement(decision_id, hold, verdict, points, resolution.actor, resolution.reason)
        names = [name for name in (hold.account, hold.peer) if name is not None]
        accounts = self._locked([(hold.program, name) for name in names], self._store(hold))
        tables.write(settle(accounts, [settlement], self._now(), tables.ids), self._now())

    def _store(self, hold: OpenHold) -> dict[Key, int]:
        account_id = self.tables.named.get((hold.program, "store", hold.store or ""))
        return {} if account_id is None else {(hold.program, hold.store or ""): account_id}

    def _told(self, resolution: Resolution, outcome: Outcome, decision_id: int | None) -> Resolved:
        hold_id = resolution.hold_id
        if outcome in {"unknown_hold", "points_out_of_range"}:
            return Resolved(hold_id, outcome)
        row = self.tables.holds[hold_id]
        if outcome == "already_resolved" and row.end is not None:
            decision_id = row.end.decision_id
        review = next(review for review in self.tables.reviews if review.decision_id == decision_id)
        posted = row.end.posted if row.end is not None and outcome != "escalated" else 0
        verdict = row.end.verdict if row.end is not None and outcome != "escalated" else "escalate"
        return Resolved(hold_id, outcome, decision_id, verdict, review.actor, review.reason, review.at_ms, posted)

    def time_out(self, program: str) -> list[Resolved]:
        """Let the policy end the holds that are due, as each hold's own `on_timeout` says."""
        now = self.tables.programs[program].clock
        due = [
            (row.due_ms, hold_id)
            for hold_id, row in self.tables.holds.items()
            if row.end is None and row.hold.program == program and row.due_ms is not None and row.due_ms <= now
        ]
        return self.resolve(
            [
                Resolution(hold_id, self.tables.holds[hold_id].hold.on_timeout, TIMEOUT_ACTOR, TIMEOUT_REASON)
                for _, hold_id in sorted(due)
            ]
        )

    # -- what is due

    def expire(self, program: str, most: int = 1000) -> int:
        """Expire up to `most` due lots, the oldest first; how many were."""
        tables, now = self.tables, self.tables.programs[program].clock
        due = [lot for lot in tables.lots.values() if lot.program == program and _due(lot, now)]
        chosen: dict[int, list[LotState]] = {}
        for lot in sorted(due, key=order_of_use)[:most]:
            chosen.setdefault(lot.account_id, []).append(lot)
        rows = [tables.accounts[account_id] for account_id in chosen]
        members = {(program, row.name): tables.state(row, chosen[row.account_id]) for row in rows}
        planned = expire(Accounts(members, tables.controls(program)), self._now(), tables.ids)
        tables.write(planned, self._now())
        return len(planned.txns)

    # -- orders and merges

    def refund(self, refund: OrderRefund) -> Result:
        """Take back, and give back, an order's points in proportion to the money refunded so far."""
        tables, order = self.tables, (refund.program, refund.order)
        if refund.amount <= 0 or refund.order_total <= 0:
            return Result("points_out_of_range", 0, 0)
        known = tables.refunds.get(order, {})
        if refund.refund in known:
            return Result("duplicate", 0, 0)
        origins = origins_of_order(tables, *order)
        if not origins:
            return Result("unknown_original", 0, 0)
        tables.refunds[order] = {**known, refund.refund: refund}
        refunded = sum(one.amount for one in tables.refunds[order].values())
        accounts = with_origins(tables, self._locked([(refund.program, origins[0].actor)], {}), origins)
        accounts = replace(accounts, origins={(REFUND_SOURCE, str(origin.root)): origin for origin in origins})
        planned = plan_refund(accounts, refund, refunded, self._now(), tables.ids)
        tables.write(planned, self._now())
        return planned.results[0]

    def merge(self, merge: Merge) -> Result:
        """Move all of one member's points, debts and rights to pools to another member."""
        tables, keys = self.tables, [(merge.program, name) for name in (merge.account, merge.into)]
        planned = plan_merge(self._locked(keys, {}), merge, self._now(), tables.ids)
        tables.write(planned, self._now())
        for done in planned.merges:
            for members in tables.pools.values():
                if done.from_id in members:
                    members.discard(done.from_id)
                    members.add(done.into_id)
        return planned.results[0]

    # -- pools

    def join_pool(self, program: str, pool: str, member: str) -> bool:
        """Let a member spend from a pool, which is opened if it is new; False if it could already."""
        tables, now = self.tables, self.tables.programs[program].clock
        account = tables.open_account(program, "pool", POOL + pool, now)
        members = tables.pools.setdefault(account.account_id, set())
        joining = tables.acting(tables.open_account(program, "member", member, now)).account_id
        joined = joining not in members
        members.add(joining)
        return joined

    def leave_pool(self, program: str, pool: str, member: str) -> bool:
        """End a member's right to spend from a pool; False if it had none."""
        account, leaving = self.tables.find((program, POOL + pool)), self.tables.find((program, member))
        if account is None or leaving is None:
            return False
        members, leaving_id = self.tables.pools[account.account_id], self.tables.acting(leaving).account_id
        left = leaving_id in members
        members.discard(leaving_id)
        return left

    # -- what there is

    def member(self, program: str, name: str) -> MemberView | None:
        """What an account has now (`pool:…` for a pool's); None if there is none."""
        row = self.tables.find((program, name))
        if row is None:
            return None
        state, now = self.tables.state(row), self.tables.programs[program].clock
        due = sum(lot.remaining - lot.reserved for lot in state.lots if _due(lot, now))
        return MemberView(
            state.posted_cr - state.posted_dr,
            state.pending_cr,
            state.pending_dr,
            state.available - due,
            state.arrears.posted_dr - state.arrears.posted_cr if state.arrears is not None else 0,
            state.lots,
            state.open_holds,
        )

    def holds(self, program: str) -> list[OpenHold]:
        """The open holds with what they freeze, by id."""
        rows = self.tables.holds
        return [
            self.tables.open_hold(n) for n in sorted(rows) if rows[n].end is None and rows[n].hold.program == program
        ]

    def dump(self, programs: Collection[str] | None = None) -> Dump:
        """Everything there is of these programmes, or of all."""
        return dump(self.tables, programs)


def _fits(resolution: Resolution, row: HoldRow) -> bool:
    points = resolution.points
    return points is None or 1 <= points <= abs(row.hold.amount)


def _due(lot: LotState, now: int) -> bool:
    return lot.expires_ms is not None and lot.expires_ms <= now and lot.remaining > lot.reserved
