"""A ledger with everything in it: each kind of transaction, each table filled, all of it covered by the audit chain."""

from typing import Any

from sqlalchemy import Engine

from ledger.adjustments import Proposal, approve, propose, reject
from ledger.book import Merge, OrderRefund, Resolution
from ledger.chain_store import Act, NotedIds, record
from ledger.import_parse import ImportRow
from ledger.import_posting import post_next
from ledger.imports import JobSpec, approve_job, stage
from ledger.merge_store import merge
from ledger.pools import join_pool
from ledger.programs import load_programs
from ledger.queries import open_holds
from ledger.refund_store import refund
from tests.integration.ledger_writer import START_MS, Writer, adjust, earn, redeem, transfer

DAY_MS = 86_400_000
EVENT_SOURCE = "till"
SHOP = "s1"


def back(event: str, account: str, points: int = 0, **rest: Any) -> dict[str, Any]:
    """Arguments of a reverse of an event of the tills."""
    return {"kind": "reverse", "account": account, "points": points, "reverses": (EVENT_SOURCE, event)} | rest


class World(Writer):
    """A writer that also merges, refunds, pools, adjusts and imports, each in a transaction with its audit link."""

    def merge(self, account: str, into: str) -> str:
        """Merge one member into another."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            asked = Merge(id=noted.take(conn, 1)[0], program=self.program, account=account, into=into, actor="ann",
                          reason="one person")  # fmt: skip
            merged = merge(conn, load_programs(conn), noted, asked)
            record(conn, Act("merge", "ann", "merge.done", {"from": account, "into": into}), noted.taken)
            return merged.result.code

    def refund(self, order: str, name: str, amount: int, total: int) -> str:
        """Refund part of an order."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            asked = OrderRefund(id=noted.take(conn, 1)[0], program=self.program, order=order, refund=name,
                                amount=amount, order_total=total, occurred_ms=START_MS)  # fmt: skip
            refunded = refund(conn, load_programs(conn), noted, asked)
            record(conn, Act("refund", "till", "refund.done", {"order": order, "refund": name}), noted.taken)
            return refunded.result.code

    def join(self, pool: str, member: str) -> bool:
        """Let a member spend from a pool."""
        with self.engine.begin() as conn:
            joined = join_pool(conn, load_programs(conn), self.program, pool, member, "ann")
            record(conn, Act("pool", "ann", "pool.joined", {"pool": pool, "member": member}))
            return joined

    def adjust(self, *asked: tuple[str, int], wait: bool = False) -> list[int]:
        """Propose adjustments by one maker; the ids of those that wait or were posted."""
        with self.engine.begin() as conn:
            proposals = [Proposal(self.program, account, points, "goodwill", "late parcel", "mia")
                         for account, points in asked]  # fmt: skip
            made = propose(conn, load_programs(conn), self.ids, proposals, wait=wait, create=True)
            return [one.adjustment_id for one in made if one.adjustment_id is not None]

    def check(self, adjustments: list[int], checker: str = "cai", *, ok: bool = True) -> None:
        """Approve or reject waiting adjustments."""
        with self.engine.begin() as conn:
            if ok:
                approve(conn, load_programs(conn), self.ids, adjustments, checker)
            else:
                reject(conn, adjustments, checker, "no such parcel")

    def bring(self, *rows: ImportRow) -> None:
        """Import opening balances."""
        spec = JobSpec(program=self.program, kind="opening", system="old", label="", digest=b"d" * 32,
                       file_name="old.csv", options={"create_members": True}, reason_code="migration",
                       reason="from the old system", maker="mia")  # fmt: skip
        with self.engine.begin() as conn:
            job = stage(conn, self.ids, spec, rows)
        with self.engine.begin() as conn:
            approve_job(conn, job.job_id, "cai")
        done = False
        while not done:
            with self.engine.begin() as conn:
                done = post_next(conn, load_programs(conn), self.ids, job) is None

    def held(self, account: str) -> list[int]:
        """The open holds of an account, the oldest first."""
        with self.engine.connect() as conn:
            return [hold.hold_id for hold in open_holds(conn) if hold.account == account]


def fill(engine: Engine) -> World:
    """Make the ledger."""
    world = World(engine, "north", expiry_days=30, grace_days=7)
    world.move(earn("ann", 100, order="o1", event_id="ann-earns"), redeem("ann", 10), transfer("ann", "bob", 20))
    world.move(redeem("cid", 7, fact=True), earn("cid", 3))
    holding(world)
    reversing(world)
    leaving(world)
    world.move(redeem("ann", 10_000), now_ms=START_MS + 40 * DAY_MS)
    south(engine)
    return world


def holding(world: World) -> None:
    """Open holds of every kind; post one, part of one, and void one."""
    world.move(
        earn("ann", 5, verdict="hold"),
        redeem("ann", 6, verdict="hold", order="o1"),
        transfer("ann", "bob", 8, verdict="hold"),
        adjust("ann", -2, verdict="hold"),
        redeem("bob", 4, verdict="hold"),
    )
    posted, parted, voided, *_ = world.held("ann")
    world.end(
        Resolution(posted, "post", "ann", "ok"),
        Resolution(parted, "post", "ann", "some of it", points=4),
        Resolution(voided, "void", "bob", "no"),
    )


def reversing(world: World) -> None:
    """Take back posted and held points, from lots, holds, others and arrears, and give some back."""
    world.move(earn("eve", 50, event_id="eve-earns", order="o2"), redeem("eve", 20, event_id="eve-spends", order="o2"))
    world.move(transfer("eve", "fay", 10, event_id="eve-gives"), redeem("eve", 15, verdict="hold"))
    world.move(earn("eve", 9, verdict="hold", event_id="eve-waits"))
    world.refund("o2", "r1", 500, 1000)
    world.move(back("eve-waits", "eve", 4), back("eve-spends", "eve", 3), back("eve-gives", "eve", 2))
    world.move(back("eve-earns", "eve"))
    world.refund("o1", "r1", 100, 1000)


def leaving(world: World) -> None:
    """Pool, merge, adjust, import, and let points expire."""
    world.move(earn("gil", 40), earn("hal", 30))
    world.join("home", "gil")
    world.move(transfer("gil", "pool:home", 25), redeem("gil", 5, pool="home"))
    world.merge("hal", "gil")
    world.move(redeem("hal", 2))
    world.adjust(("ida", 15), ("jan", 25))
    kept, refused = world.adjust(("ida", 15_000), ("jan", 1), wait=True)
    world.check([kept])
    world.check([refused], ok=False)
    world.bring(ImportRow(line=2, account="kim", points=70, earned_ms=START_MS, expires_ms=START_MS + 90 * DAY_MS,
                          external_id="k-7"))  # fmt: skip
    world.tick(START_MS + 35 * DAY_MS)
    world.expire()


def south(engine: Engine) -> None:
    """Another programme, whose points its stores pay for."""
    other = World(engine, "south", funding="store")
    other.move(earn("dan", 9, store=SHOP), redeem("dan", 4, store=SHOP), earn("dan", 1))
