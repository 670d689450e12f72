"""The expiry job: expires due lots in bounded batches. Nothing waits for it, for a spend expires the spender's own.

Whatever of a lot no hold reserves goes, by one transaction a lot, so running it again does nothing; the rest goes or is
graced when its hold ends.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from ledger.arrays import bigints, fetch
from ledger.expiry import expire
from ledger.ids import IdBlocks
from ledger.movement import Accounts
from ledger.programs import ledger_now, load_programs
from ledger.store import lock_ids, write
from ledger.store_lots import read_lots

_DUE = """
SELECT lot_id, account_id FROM lot
 WHERE program = %(program)s AND open AND remaining > reserved
   AND expires_at <= to_timestamp(%(now)s::bigint / 1000.0)
 ORDER BY expires_at, earned_at, lot_id LIMIT %(most)s"""

# Never waits, so the order does not matter; whoever has an account locked is left alone until the next run.
_FREE = """
SELECT account_id FROM account WHERE account_id = ANY(%(ids)s) ORDER BY account_id FOR UPDATE SKIP LOCKED"""


def expire_due(conn: Connection, ids: IdBlocks, programs: Collection[str] | None, most: int) -> int:
    """Expire up to `most` due lots of these programmes (None: of all), the oldest first; how many were.

    Accounts that someone else has locked are left out. Must run in a READ COMMITTED transaction, which the caller
    commits.
    """
    expired = 0
    for name in sorted(load_programs(conn) if programs is None else programs):
        if expired < most:
            expired += _expire(conn, ids, name, most - expired)
    return expired


def _expire(conn: Connection, ids: IdBlocks, program: str, most: int) -> int:
    now = ledger_now(conn, [program])
    due = fetch(conn, _DUE, {"program": program, "now": now[program], "most": most})
    if not due:
        return 0
    free = {row[0] for row in fetch(conn, _FREE, {"ids": bigints(sorted({row[1] for row in due}))})}
    locked = lock_ids(conn, free)
    lots = read_lots(conn, [lot_id for lot_id, account_id in due if account_id in free])
    members = {one.key: one.state._replace(lots=lots.get(one.state.account_id, ())) for one in locked.values()}
    there = load_programs(conn, [program])[program]
    controls = {(program, control): account_id for control, account_id in there.controls.items()}
    now = ledger_now(conn, [program])
    plan = expire(Accounts(members, controls, terms={program: there.terms}), now, ids.stream(conn))
    write(conn, plan, now)
    return len(plan.txns)
