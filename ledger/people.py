"""What staff do with members by hand: merge two, let one into a pool or out. Each with its link in the audit chain."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from ledger.book import Merge
from ledger.chain_store import Act, NotedIds, record
from ledger.ids import IdBlocks
from ledger.merge_store import merge
from ledger.movement import Result
from ledger.pools import join_pool, leave_pool
from ledger.programs import Program


def merge_members(conn: Connection, programs: Mapping[str, Program], ids: IdBlocks, asked: Merge) -> Result:
    """Merge one member into another and note who did it; refused, nothing is noted."""
    noted = NotedIds(ids)
    done = merge(conn, programs, noted, asked)
    if done.result.code == "posted":
        said = {"program": asked.program, "from": asked.account, "into": asked.into, "reason": asked.reason}
        record(conn, Act("merge", asked.actor, "members.merged", said), [asked.id, *noted.taken])
    return done.result


def let_in(conn: Connection, programs: Mapping[str, Program], program: str, pool: str, member: str, actor: str) -> bool:
    """Let a member spend from a pool and note who did it; False if it could already."""
    joined = join_pool(conn, programs, program, pool, member, actor)
    if joined:
        record(conn, Act("pool", actor, "pool.joined", {"program": program, "pool": pool, "member": member}))
    return joined


def let_out(
    conn: Connection, programs: Mapping[str, Program], program: str, pool: str, member: str, actor: str
) -> bool:
    """End a member's right to spend from a pool and note who did it; False if it had none."""
    left = leave_pool(conn, programs, program, pool, member)
    if left:
        record(conn, Act("pool", actor, "pool.left", {"program": program, "pool": pool, "member": member}))
    return left
