"""Manual adjustments: one person proposes, and above the programme's limit another one approves.

Who may approve what is enforced in the database (migration 0004), whoever writes there. Within the limit a proposal is
posted at once. An adjustment that takes points away is a request: it is refused where the balance lacks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlalchemy import Connection

from ledger.adjust_posting import Asked, Posting
from ledger.arrays import bigints, booleans, columns, fetch, run, texts, timestamps
from ledger.chain_store import Act, NotedIds, record
from ledger.ids import IdBlocks
from ledger.import_cells import CellError, name_in
from ledger.movement import MAX_POINTS, POOL, Key
from ledger.programs import Program, ledger_now

REASON_CODES = (
    "goodwill",
    "correction",
    "campaign",
    "migration",
    "dispute",
    "fraud",
    "reconciliation",
    "other",
)
REASON_MAX = 1000

Outcome = Literal["posted", "waiting", "refused", "known"]
CheckOutcome = Literal["posted", "rejected", "refused", "checked_before", "own", "unknown"]


class AdjustmentError(Exception):
    """A proposal or a check can't be as asked. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a maker wants adjusted: `points` are signed; given ones expire at `expires_ms`, or as the terms say.

    `reference` is the maker's own name of it, unique in the programme: proposed again, it is the same adjustment.
    """

    program: str
    account: str
    points: int
    reason_code: str
    reason: str
    maker: str
    expires_ms: int | None = None
    reference: str | None = None


class Proposed(NamedTuple):
    """What became of a proposal: `waiting` and `refused` say why in `code`; what is refused is not recorded."""

    outcome: Outcome
    adjustment_id: int | None
    code: str = ""
    txn_id: int | None = None


class Checked(NamedTuple):
    """What became of a check; where it was done before, or refused by the ledger (`code`), nothing changed."""

    adjustment_id: int
    outcome: CheckOutcome
    code: str = ""
    txn_id: int | None = None


_KNOWN = """
SELECT a.program, a.reference, a.adjustment_id FROM unnest(%(programs)s, %(references)s) AS w(program, reference)
  JOIN adjustment a ON a.program = w.program AND a.reference = w.reference"""

_MEMBERS = """
SELECT a.program, a.name FROM unnest(%(programs)s, %(names)s) AS w(program, name)
  JOIN account a ON a.program = w.program AND a.kind = 'member' AND a.name = w.name"""

# What the maker has had approved without a checker, by account, under whatever name: an account has those of the ones
# that were merged into it, too. Read behind the accounts' locks.
_ALONE = """
WITH RECURSIVE one AS (
    SELECT account_id AS root, account_id, now FROM unnest(%(ids)s, %(now)s) AS w(account_id, now)
     UNION
    SELECT o.root, m.from_id, o.now FROM one o JOIN account_merge m ON m.into_id = o.account_id)
SELECT o.root, sum(abs(a.points)) FROM one o JOIN account c USING (account_id)
  JOIN adjustment a ON a.program = c.program AND a.account = c.name
 WHERE a.verdict = 'approved' AND a.checker IS NULL AND a.checked_at > o.now - interval '24 hours'
   AND lower(btrim(normalize(a.maker, NFKC))) = lower(btrim(normalize(%(maker)s::text, NFKC)))
 GROUP BY o.root"""

_INSERT = """
INSERT INTO adjustment (adjustment_id, program, account, points, reason_code, reason, expires_at, reference, maker,
                        made_at, limit_points)
SELECT adjustment_id, program, account, points, reason_code, reason, nullif(expires_at, 'epoch'), reference, maker,
       made_at, 0
  FROM unnest(%(ids)s, %(programs)s, %(accounts)s, %(points)s, %(codes)s, %(reasons)s, %(expires)s, %(references)s,
              %(makers)s, %(made)s)
       AS w(adjustment_id, program, account, points, reason_code, reason, expires_at, reference, maker, made_at)"""

_APPROVE = """
UPDATE adjustment a SET verdict = 'approved', checker = %(checker)s::text, checked_at = w.at, txn_id = w.txn_id
  FROM unnest(%(ids)s, %(txns)s, %(at)s) AS w(adjustment_id, txn_id, at) WHERE a.adjustment_id = w.adjustment_id"""

_REJECT = """
UPDATE adjustment a SET verdict = 'rejected', checked_at = w.at, check_reason = %(reason)s::text,
       checker = CASE WHEN w.own THEN NULL ELSE %(checker)s::text END
  FROM unnest(%(ids)s, %(own)s, %(at)s) AS w(adjustment_id, own, at) WHERE a.adjustment_id = w.adjustment_id"""

_LOCK = """
SELECT adjustment_id, program, account, points, (date_part('epoch', expires_at) * 1000)::bigint, maker, verdict,
       lower(btrim(normalize(maker, NFKC))) = lower(btrim(normalize(%(checker)s::text, NFKC))), reason_code
  FROM adjustment WHERE adjustment_id = ANY(%(ids)s) ORDER BY adjustment_id FOR UPDATE"""


def propose(
    conn: Connection,
    programs: Mapping[str, Program],
    ids: IdBlocks,
    proposals: Sequence[Proposal],
    *,
    wait: bool = False,
    create: bool = False,
) -> list[Proposed]:
    """Record proposals of one maker, in order, and post those that need no checker, unless all are to `wait` for one.

    A member that is not known is refused, unless it is to be created. Ends with a link of the audit chain: nothing may
    be written behind it but the commit, which is the caller's. AdjustmentError for what no adjustment can be.
    """
    if not proposals:
        return []
    for proposal in proposals:
        _check(proposal, programs)
    if len({proposal.maker for proposal in proposals}) > 1:
        raise AdjustmentError("proposals of several makers; propose each maker's by itself")
    noted = NotedIds(ids)
    outcomes = _set_apart(conn, proposals, create=create)
    fresh = [n for n in range(len(proposals)) if n not in outcomes]
    made = dict(zip(fresh, noted.take(conn, len(fresh)), strict=True))
    posting = Posting(conn, programs, noted)
    now = posting.lock(
        [] if wait else [_asked(made[n], proposals[n]) for n in fresh], {one.program for one in proposals}
    )
    alone, waiting = _divide(conn, [(n, proposals[n]) for n in fresh], now, programs, posting.account_ids)
    results = posting.decide([_asked(made[n], proposals[n]) for n in alone])
    posted = {n: result for n, result in zip(alone, results, strict=True) if result.txn_id is not None}
    _insert(conn, [(made[n], proposals[n], now[proposals[n].program]) for n in sorted([*posted, *waiting])])
    _approve(conn, [(made[n], result.txn_id or 0, now[proposals[n].program]) for n, result in posted.items()], None)
    posting.write()
    for n, result in zip(alone, results, strict=True):
        outcomes[n] = (
            Proposed("posted", made[n], "", result.txn_id) if n in posted else Proposed("refused", None, result.code)
        )
    outcomes |= {n: Proposed("waiting", made[n], code) for n, code in waiting.items()}
    told = [
        [made[n], proposals[n].points, proposals[n].reason_code, outcomes[n].txn_id]
        for n in sorted([*posted, *waiting])
    ]
    if told:
        record(conn, Act("adjustment", proposals[0].maker, "adjustment.proposed", {"adjustments": told}), noted.taken)
    return [outcomes[n] for n in range(len(proposals))]


def approve(
    conn: Connection, programs: Mapping[str, Program], ids: IdBlocks, asked: Sequence[int], checker: str
) -> list[Checked]:
    """Approve and post waiting adjustments, in order; the checker must be somebody else than the maker.

    One that the ledger refuses (a balance that lacks the points) stays as it was. Ends with a link of the audit chain.
    """
    noted = NotedIds(ids)
    found = _locked(conn, asked, checker)
    outcomes = {one: _standing(one, found.get(one)) for one in asked}
    ready = [found[one] for one in dict.fromkeys(asked) if outcomes[one] is None]
    own = {row.adjustment_id for row in ready if row.own}
    ready = [row for row in ready if not row.own]
    posting = Posting(conn, programs, noted)
    to_post = [_asked(row.adjustment_id, row.proposal) for row in ready]
    now = posting.lock(to_post, {row.proposal.program for row in ready})
    results = posting.decide(to_post)
    done = [(row, result) for row, result in zip(ready, results, strict=True) if result.txn_id is not None]
    _approve(
        conn, [(row.adjustment_id, result.txn_id or 0, now[row.proposal.program]) for row, result in done], checker
    )
    posting.write()
    if done:
        told = [[row.adjustment_id, row.proposal.points, row.proposal.maker, result.txn_id] for row, result in done]
        record(conn, Act("adjustment", checker, "adjustment.approved", {"adjustments": told}), noted.taken)
    ended = {
        row.adjustment_id: Checked(row.adjustment_id, "posted", "", result.txn_id)
        if result.txn_id is not None
        else Checked(row.adjustment_id, "refused", result.code)
        for row, result in zip(ready, results, strict=True)
    }
    return [
        outcomes[one] or (Checked(one, "own") if one in own else ended[one])  # what was asked twice is told twice
        for one in asked
    ]


def reject(conn: Connection, asked: Sequence[int], checker: str, reason: str) -> list[Checked]:
    """Reject waiting adjustments, with a reason; a maker may withdraw the own ones. Ends with a link of the chain."""
    if not 1 <= len(reason.strip()) <= REASON_MAX:
        raise AdjustmentError(f"a rejection needs a reason of 1 to {REASON_MAX} characters; write it")
    found = _locked(conn, asked, checker)
    outcomes = {one: _standing(one, found.get(one)) for one in asked}
    ready = [found[one] for one in sorted(set(asked)) if outcomes[one] is None]
    if ready:
        now = ledger_now(conn, {row.proposal.program for row in ready})
        run(
            conn,
            _REJECT,
            {
                "ids": bigints([row.adjustment_id for row in ready]),
                "own": booleans([row.own for row in ready]),
                "at": timestamps([now[row.proposal.program] for row in ready]),
                "checker": checker,
                "reason": reason,
            },
        )
        told = [[row.adjustment_id, row.proposal.points, row.proposal.maker] for row in ready]
        record(conn, Act("adjustment", checker, "adjustment.rejected", {"adjustments": told}))
    return [outcomes[one] or Checked(one, "rejected") for one in asked]


def _asked(adjustment_id: int, one: Proposal) -> Asked:
    return Asked(adjustment_id, one.program, one.account, one.points, one.expires_ms)


class _Row(NamedTuple):
    """A recorded adjustment under its lock; `own` if the checker is its maker."""

    adjustment_id: int
    proposal: Proposal
    verdict: str | None
    own: bool


def _check(proposal: Proposal, programs: Mapping[str, Program]) -> None:
    if proposal.program not in programs:
        raise AdjustmentError(f"there is no programme {proposal.program!r}; see `pointguard program list`")
    for what, value in (("account", proposal.account), ("maker", proposal.maker)):
        try:
            same = name_in(value, what) == value
        except CellError as error:
            raise AdjustmentError(f"{what} {error}") from error
        if not same:
            raise AdjustmentError(f"{what} {value!r} has blanks around it; take them away")
    if proposal.account.startswith(POOL):
        raise AdjustmentError(f"{proposal.account!r} is a pool; adjust a member's points, who may transfer them to it")
    if not 0 < abs(proposal.points) <= MAX_POINTS:
        raise AdjustmentError(
            f"{proposal.points:,} points cannot be adjusted; take 1 to {MAX_POINTS:,}, or as many away"
        )
    if proposal.expires_ms is not None and proposal.points < 0:
        raise AdjustmentError("points that are taken away do not expire; leave out the expiry")
    if proposal.reason_code not in REASON_CODES:
        raise AdjustmentError(f"reason code {proposal.reason_code!r} is unknown; take one of {', '.join(REASON_CODES)}")
    if not 1 <= len(proposal.reason.strip()) <= REASON_MAX:
        raise AdjustmentError(f"an adjustment needs a reason of 1 to {REASON_MAX} characters; write it")


def _set_apart(conn: Connection, proposals: Sequence[Proposal], *, create: bool) -> dict[int, Proposed]:
    """What needs no decision: references that are known already, and members that are not."""
    apart: dict[int, Proposed] = {}
    named = [(n, one.program, one.reference) for n, one in enumerate(proposals) if one.reference is not None]
    if named:
        asked = {"programs": texts([name for _, name, _ in named]), "references": texts([ref for _, _, ref in named])}
        known = {(row[0], row[1]): row[2] for row in fetch(conn, _KNOWN, asked)}
        seen: set[tuple[str, str | None]] = set()
        for n, program, reference in named:
            if (program, reference) in known:
                apart[n] = Proposed("known", known[program, reference])
            elif (program, reference) in seen:
                raise AdjustmentError(f"reference {reference!r} is there twice; give each adjustment its own")
            seen.add((program, reference))
    if not create:
        asked = {
            "programs": texts([one.program for one in proposals]),
            "names": texts([one.account for one in proposals]),
        }
        members = {(row[0], row[1]) for row in fetch(conn, _MEMBERS, asked)}
        for n, one in enumerate(proposals):
            if n not in apart and (one.program, one.account) not in members:
                apart[n] = Proposed("refused", None, "unknown_account")
    return apart


def _divide(
    conn: Connection,
    fresh: Sequence[tuple[int, Proposal]],
    now: Mapping[str, int],
    programs: Mapping[str, Program],
    account_ids: Mapping[Key, int],
) -> tuple[list[int], dict[int, str]]:
    """Those that may be posted without a checker, and why the others wait: without `account_ids`, as they shall."""
    if not account_ids:
        return [], {n: "asked_to_wait" for n, _ in fresh}
    times = {account_id: now[program] for (program, _), account_id in account_ids.items()}
    asked = {
        "ids": bigints(list(times)),
        "now": timestamps(list(times.values())),
        "maker": fresh[0][1].maker,
    }
    spent: Counter[int] = Counter({row[0]: int(row[1]) for row in fetch(conn, _ALONE, asked)})
    alone: list[int] = []
    waiting: dict[int, str] = {}
    for n, one in fresh:
        limit, points = programs[one.program].terms.adjust_limit, abs(one.points)
        account_id = account_ids[one.program, one.account]
        if points > limit:
            waiting[n] = "above_limit"
        elif spent[account_id] + points > limit:
            waiting[n] = "above_limit_of_a_day"
        else:
            spent[account_id] += points
            alone.append(n)
    return alone, waiting


def _insert(conn: Connection, made: Sequence[tuple[int, Proposal, int]]) -> None:
    if not made:
        return
    run(
        conn,
        _INSERT,
        {
            "ids": bigints([adjustment_id for adjustment_id, _, _ in made]),
            "programs": texts([one.program for _, one, _ in made]),
            "accounts": texts([one.account for _, one, _ in made]),
            "points": bigints([one.points for _, one, _ in made]),
            "codes": texts([one.reason_code for _, one, _ in made]),
            "reasons": texts([one.reason for _, one, _ in made]),
            "expires": timestamps([one.expires_ms or 0 for _, one, _ in made]),
            "references": texts([one.reference for _, one, _ in made]),
            "makers": texts([one.maker for _, one, _ in made]),
            "made": timestamps([now for _, _, now in made]),
        },
    )


def _approve(conn: Connection, posted: Sequence[tuple[int, int, int]], checker: str | None) -> None:
    """Mark adjustments as approved by (id, transaction, time)."""
    if not posted:
        return
    ids, txns, at = columns(posted)
    run(conn, _APPROVE, {"ids": bigints(ids), "txns": bigints(txns), "at": timestamps(at), "checker": checker})


def _locked(conn: Connection, asked: Iterable[int], checker: str) -> dict[int, _Row]:
    try:
        name_in(checker, "checker")
    except CellError as error:
        raise AdjustmentError(f"checker {error}") from error
    rows = fetch(conn, _LOCK, {"ids": bigints(sorted(set(asked))), "checker": checker})
    return {
        row[0]: _Row(row[0], Proposal(row[1], row[2], row[3], row[8], "", row[5], row[4]), row[6], own=row[7])
        for row in rows
    }


def _standing(adjustment_id: int, row: _Row | None) -> Checked | None:
    """Why there is nothing to check any more; None where there is."""
    if row is None:
        return Checked(adjustment_id, "unknown")
    return None if row.verdict is None else Checked(adjustment_id, "checked_before", row.verdict)
