"""Pools on PostgreSQL: points of a household or a company, and who may spend them.

A pool is an account named `pool:` and its name. A membership row says from when until when somebody could spend from
it; rows are only ever added, or ended once. They change under the locks of the pool and of the member.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledger.book import pool_key
from ledger.movement import POOL, Accounts
from ledger.programs import Program, ledger_now
from ledger.store import find_accounts, lock_accounts

_OPEN = text("""
INSERT INTO account (program, kind, name, opened_at)
VALUES (:program, 'pool', :name, to_timestamp(CAST(:now AS bigint) / 1000.0))
ON CONFLICT (program, kind, name) DO NOTHING""")

# A simulation's clock may stand still while somebody leaves and comes back; times of one pair still ascend.
_JOIN = text("""
INSERT INTO pool_member (pool_id, member_id, since, added_by)
SELECT :pool, :member,
       greatest(to_timestamp(CAST(:now AS bigint) / 1000.0), max(greatest(since, until)) + interval '1 microsecond'),
       :actor
  FROM pool_member WHERE pool_id = :pool AND member_id = :member
HAVING count(*) FILTER (WHERE until IS NULL) = 0""")

_LEAVE = text("""
UPDATE pool_member SET until = greatest(since, to_timestamp(CAST(:now AS bigint) / 1000.0))
 WHERE pool_id = :pool AND member_id = :member AND until IS NULL""")

_POOLS_OF = text("SELECT pool_id, added_by FROM pool_member WHERE member_id = :member AND until IS NULL")

_LIST = text("""
SELECT p.name AS pool, m.name AS member, pm.since, pm.added_by, p.posted_cr - p.posted_dr AS points
  FROM account p
  LEFT JOIN pool_member pm ON pm.pool_id = p.account_id AND pm.until IS NULL
  LEFT JOIN account m ON m.account_id = pm.member_id
 WHERE p.program = :program AND p.kind = 'pool' AND (CAST(:name AS text) IS NULL OR p.name = :name)
 ORDER BY p.name, m.name""")


class Membership(NamedTuple):
    """A pool with its points and one of its members; a pool without members has one row without a member."""

    pool: str
    member: str | None
    since: datetime | None
    added_by: str | None
    points: int


def join_pool(
    conn: Connection, programs: Mapping[str, Program], program: str, pool: str, member: str, actor: str
) -> bool:
    """Let a member spend from a pool, which is opened if it is new; False if it could already.

    A member that nobody knows yet is opened, too. Must run in a READ COMMITTED transaction, which the caller commits.
    """
    now = ledger_now(conn, [program])[program]
    conn.execute(_OPEN, {"program": program, "name": pool_key(program, pool)[1], "now": now})
    accounts = lock_accounts(conn, programs, dict.fromkeys([pool_key(program, pool), (program, member)], now))
    pair = _pair(accounts, program, pool, member)
    return conn.execute(_JOIN, {**pair, "now": ledger_now(conn, [program])[program], "actor": actor}).rowcount == 1


def leave_pool(conn: Connection, programs: Mapping[str, Program], program: str, pool: str, member: str) -> bool:
    """End a member's right to spend from a pool; False if it had none."""
    keys = [pool_key(program, pool), (program, member)]
    if len(find_accounts(conn, keys)) < len(keys):
        return False
    accounts = lock_accounts(conn, programs, dict.fromkeys(keys, 0))
    pair = _pair(accounts, program, pool, member)
    return conn.execute(_LEAVE, {**pair, "now": ledger_now(conn, [program])[program]}).rowcount == 1


def pass_memberships(conn: Connection, source: int, into: int, now_ms: int) -> None:
    """Give one account's memberships to another. The caller has locked both."""
    for row in conn.execute(_POOLS_OF, {"member": source}).all():
        conn.execute(_LEAVE, {"pool": row.pool_id, "member": source, "now": now_ms})
        conn.execute(_JOIN, {"pool": row.pool_id, "member": into, "now": now_ms, "actor": row.added_by})


def memberships(conn: Connection, program: str, pool: str | None = None) -> list[Membership]:
    """List a programme's pools, or one of them, with who may spend from them now."""
    name = None if pool is None else pool_key(program, pool)[1]
    return [
        Membership(row.pool.removeprefix(POOL), *row[1:])
        for row in conn.execute(_LIST, {"program": program, "name": name})
    ]


def _pair(accounts: Accounts, program: str, pool: str, member: str) -> dict[str, int]:
    states = accounts.members
    return {"pool": states[pool_key(program, pool)].account_id, "member": states[program, member].account_id}
