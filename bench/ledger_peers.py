"""What the ledger is compared with: a plain ORM ledger as one writes it first, and bare INSERTs of the same bytes.

The INSERTs go into two sets of tables: bare heaps, and tables with the primary keys and indexes that the ledger's have.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Text,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.ledger_fill import EXPIRY_DAYS, LOT_POINTS, PROGRAM
from bench.ledger_work import Ask
from ledger.arrays import bigints, columns, run
from ledger.plan import Plan
from ledger.store import write

FLOOR_TABLES: Final = ("txn", "entry", "lot", "lot_use", "hold", "hold_lot", "control_delta")


class Base(DeclarativeBase):
    """Tables of the ORM ledger, in a schema of their own."""


class Member(Base):
    """A member with its balance."""

    __tablename__ = "orm_member"
    member_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    posted: Mapped[int] = mapped_column(BigInteger, default=0)
    pending_in: Mapped[int] = mapped_column(BigInteger, default=0)
    pending_out: Mapped[int] = mapped_column(BigInteger, default=0)


class Posting(Base):
    """One posting; a held one is pending."""

    __tablename__ = "orm_posting"
    posting_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    event_id: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    points: Mapped[int] = mapped_column(BigInteger)
    pending: Mapped[bool] = mapped_column(Boolean)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Leg(Base):
    """One side of a posting; none of a member is the programme's."""

    __tablename__ = "orm_leg"
    leg_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    posting_id: Mapped[int] = mapped_column(ForeignKey(Posting.posting_id))
    member_id: Mapped[int | None] = mapped_column(ForeignKey(Member.member_id), index=True)
    amount: Mapped[int] = mapped_column(BigInteger)


class Batch(Base):
    """Points that expire together: the ORM ledger's lot."""

    __tablename__ = "orm_lot"
    lot_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey(Member.member_id))
    remaining: Mapped[int] = mapped_column(BigInteger)
    reserved: Mapped[int] = mapped_column(BigInteger, default=0)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    __table_args__ = (Index("orm_lot_use_idx", "member_id", "expires_at"),)


_MEMBERS = """
INSERT INTO orm_member (name, posted, pending_in, pending_out)
SELECT 'm' || n, :points, 0, 0 FROM generate_series(0, :members - 1) AS g(n)"""
_LOTS = """
INSERT INTO orm_lot (member_id, remaining, reserved, expires_at)
SELECT member_id, :points, 0, now() + interval '2 years' FROM orm_member"""


def prepare_orm(engine: Engine, members: int) -> None:
    """Make the ORM ledger's tables and its members, each with one lot, as the other ledger's have."""
    Base.metadata.create_all(engine)
    with engine.begin() as conn:
        for statement in (_MEMBERS, _LOTS):
            conn.execute(text(statement), {"members": members, "points": LOT_POINTS})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM (ANALYZE)"))


class OrmPoster:
    """Select for update, insert, commit: a transaction for each posting."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def post(self, batch: Sequence[Ask]) -> None:
        """Post one by one, whatever the size of the batch."""
        for ask in batch:
            with Session(self._engine) as session, session.begin():
                self._one(session, ask)

    def _one(self, session: Session, ask: Ask) -> None:
        names = sorted({ask.account} | ({ask.to} if ask.to else set()))
        found = select(Member).where(Member.name.in_(names)).order_by(Member.member_id).with_for_update()
        members = {member.name: member for member in session.scalars(found)}
        member, now = members[ask.account], datetime.now(UTC)
        receiver = members[ask.to] if ask.to else member if ask.kind == "earn" else None
        payer = None if ask.kind == "earn" else member
        if payer is not None and payer.posted - payer.pending_out < ask.points:
            return
        posting = Posting(event_id=ask.event_id, kind=ask.kind, points=ask.points, pending=ask.held, at=now)
        session.add(posting)
        session.flush()
        for side, amount in ((payer, -ask.points), (receiver, ask.points)):
            mine = side.member_id if side is not None else None
            session.add(Leg(posting_id=posting.posting_id, member_id=mine, amount=amount))
        if payer is not None:
            self._spend(session, payer, ask)
        if receiver is not None and ask.held:
            receiver.pending_in += ask.points
        elif receiver is not None:
            receiver.posted += ask.points
            expires = now + timedelta(days=EXPIRY_DAYS)
            session.add(Batch(member_id=receiver.member_id, remaining=ask.points, reserved=0, expires_at=expires))

    def _spend(self, session: Session, payer: Member, ask: Ask) -> None:
        left = ask.points
        lots = select(Batch).where(Batch.member_id == payer.member_id, Batch.remaining > 0).order_by(Batch.expires_at)
        for lot in session.scalars(lots.with_for_update()):
            taken = min(left, lot.remaining - lot.reserved)
            if ask.held:
                lot.reserved += taken
            else:
                lot.remaining -= taken
            left -= taken
            if not left:
                break
        if ask.held:
            payer.pending_out += ask.points
        else:
            payer.posted -= ask.points


class Floor:
    """Writes the rows of plans that were made before into tables without checks or triggers, with keys or without.

    What PointGuard updates (accounts and lots) is inserted here, too: the same bytes on their way.
    """

    def __init__(self, url: str, *, keys: bool) -> None:
        """Make the tables in a schema of their own, which this engine's connections look into first."""
        schema = "floor_keys" if keys else "floor_heap"
        self._engine = create_engine(url)

        @event.listens_for(self._engine, "connect")
        def _look_here(connection: object, _record: object) -> None:
            connection.execute(f"SET search_path = {schema}, public")  # type: ignore[attr-defined]  # psycopg's
            connection.commit()  # type: ignore[attr-defined]  # as above

        indexes = " INCLUDING INDEXES" if keys else ""
        with create_engine(url).begin() as conn:
            conn.execute(text(f"CREATE SCHEMA {schema}"))
            for table in FLOOR_TABLES:
                like = f"LIKE public.{table} INCLUDING GENERATED INCLUDING IDENTITY{indexes}"
                conn.execute(text(f"CREATE TABLE {schema}.{table} ({like})"))
            conn.execute(text(f"CREATE TABLE {schema}.change ({', '.join(f'c{n} bigint' for n in range(13))})"))

    def post_all(self, batches: Sequence[Sequence[Plan]], now_ms: int) -> None:
        """Insert what the plans of many batches wrote, batch by batch."""
        for plans in batches:
            self.post(plans, now_ms)

    def post(self, plans: Sequence[Plan], now_ms: int) -> None:
        """Insert what these plans wrote, in one transaction."""
        with self._engine.begin() as conn:
            for plan in plans:
                write(conn, replace(plan, changes=(), lot_changes=()), {PROGRAM: now_ms})
                for changes in (plan.changes, plan.lot_changes):
                    if changes:
                        values = {f"c{n}": bigints(list(column)) for n, column in enumerate(columns(changes))}
                        names = ", ".join(values)
                        given = ", ".join(f"%({name})s" for name in values)
                        run(conn, f"INSERT INTO change ({names}) SELECT * FROM unnest({given})", values)  # noqa: S608 -- names made here

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
