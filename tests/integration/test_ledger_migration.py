"""A ledger from before there were lots: migrated, it proves itself, and what was held and owed goes on as it was."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

import ledger
from ledger.book import Resolution
from ledger.ids import IdBlocks
from ledger.migrate import migrate
from ledger.queries import Balance, balance, open_holds
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, Writer, earn, pool, redeem

OLD = "0002"
MEMBERS = ("ann", "bob", "cat", "dan")
CONTROLS = ("issued", "redeemed", "expired", "clawback", "adjust")
AT = f"to_timestamp({START_MS} / 1000)"

_ACCOUNT = text(f"""
INSERT INTO account (account_id, program, kind, name, posted_dr, posted_cr, pending_dr, pending_cr, entry_count,
                     arrears_id, opened_at)
OVERRIDING SYSTEM VALUE VALUES (:id, 'north', :kind, :name, :posted_dr, :posted_cr, :pending_dr, :pending_cr, :entries,
                                :arrears, {AT})""")  # noqa: S608 -- constants
_TXN = text(f"""
INSERT INTO txn VALUES (:id, 'north', :kind, :source, :event, :resolves, :amount, :pending, {AT}, {AT})""")  # noqa: S608 -- constants
_ENTRY = text("INSERT INTO entry VALUES (:txn, :account, :amount, :seq, :leg, :layer)")
_HOLD = text(f"""
INSERT INTO hold VALUES (:id, 'north', :account, :peer, :kind, :amount, {AT}, NULL, 'escalate',
                         CASE WHEN :ended THEN {AT} END)""")  # noqa: S608 -- constants
_REVIEW = text(f"INSERT INTO review_decision VALUES (:id, :hold, :verdict, 'eve', 'seen', {AT}, {AT})")  # noqa: S608 -- constants
_RESOLUTION = text(f"INSERT INTO hold_resolution VALUES (:hold, :verdict, :id, {AT})")  # noqa: S608 -- constants
_EVENT = text("INSERT INTO event_inbox VALUES ('till', :event, 'log', 'points.events', 0, :id, now(), '')")
_DECISION = text("""
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, event, reasons,
                      occurred_at, observed_at, decided_at, log_id, topic, part, "offset")
VALUES (:id, 'till', :event, 'north', :account, :kind, :amount, :outcome, :outcome, '{}', '[]', now(), now(), now(),
        'log', 'points.events', 0, :id)""")


@dataclass
class OldLedger:
    """What the code of the old schema wrote, statement by statement."""

    conn: Connection
    next_id: int = 1
    ids: dict[str, int] = field(default_factory=dict)
    seqs: Counter[int] = field(default_factory=Counter)
    counters: dict[int, Counter[str]] = field(default_factory=dict)

    def event(self, kind: str, amount: int, sides: tuple[str, str], *, held: bool = False, who: str = "") -> int:
        """A movement of a member's: a transaction of two legs and a decision; pending if it is held."""
        debit, credit = sides
        who = who or (credit if kind == "earn" else debit)
        given = self._txn(kind, amount, None, pending=held)
        self._legs(given, debit, credit, abs(amount), 1 if held else 0)
        row = {"id": given, "event": f"e{given}", "account": who, "kind": kind, "amount": amount}
        self.conn.execute(_EVENT, row)
        self.conn.execute(_DECISION, row | {"outcome": "hold" if held else "approve"})
        return given

    def hold(self, kind: str, amount: int, sides: tuple[str, str], verdict: str | None = None) -> int:
        """A held movement, and its end if there is a verdict."""
        opened = self.event(kind, amount, sides, held=True, who=sides[0] if kind != "earn" else sides[1])
        owner, peer = (sides[1], None) if kind == "earn" else (sides[0], sides[1] if kind == "transfer" else None)
        row = {"id": opened, "account": self.ids[owner], "peer": None if peer is None else self.ids[peer]}
        self.conn.execute(_HOLD, row | {"kind": kind, "amount": amount, "ended": verdict is not None})
        if verdict is not None:
            ended = self._txn(verdict, amount, opened, pending=False)
            self._legs(ended, *sides, abs(amount), 2)
            if verdict == "post":
                self._legs(ended, *sides, abs(amount), 0, leg=2)
            self.conn.execute(_REVIEW, {"id": ended, "hold": opened, "verdict": verdict})
            self.conn.execute(_RESOLUTION, {"id": ended, "hold": opened, "verdict": verdict})
        return opened

    def open(self) -> None:
        """Make the programme and name its accounts; their rows are written by `close`."""
        self.conn.execute(text(f"INSERT INTO program VALUES ('north', 'simulation', {AT})"))  # noqa: S608 -- constants
        for number, name in enumerate((*CONTROLS, *MEMBERS, "bob's debt"), start=1):
            self.ids[name] = number
            self.counters[number] = Counter()

    def close(self) -> None:
        """Write the accounts with the counters their entries add up to."""
        for name, number in self.ids.items():
            kind = "control" if name in CONTROLS else "member" if name in MEMBERS else "arrears"
            counters: dict[str, Any] = {
                key: self.counters[number][key] for key in ("posted_dr", "posted_cr", "pending_dr", "pending_cr")
            }
            arrears = self.ids["bob's debt"] if name == "bob" else None
            row = {"id": number, "kind": kind, "name": "bob" if kind == "arrears" else name, "arrears": arrears}
            self.conn.execute(_ACCOUNT, row | counters | {"entries": 0 if kind == "control" else self.seqs[number]})
        self.conn.execute(text("ALTER TABLE account ALTER account_id RESTART WITH 1000"))
        self.conn.execute(text("SELECT setval('decision_seq', 1)"))

    def _txn(self, kind: str, amount: int, resolves: int | None, *, pending: bool) -> int:
        given, self.next_id = self.next_id, self.next_id + 1
        caused = {"source": None, "event": None} if resolves else {"source": "till", "event": f"e{given}"}
        row = {"id": given, "kind": kind, "resolves": resolves, "amount": amount, "pending": pending}
        self.conn.execute(_TXN, row | caused)
        return given

    def _legs(self, txn: int, debit: str, credit: str, amount: int, layer: int, leg: int = 0) -> None:
        rows = []
        for name, signed in ((debit, -amount), (credit, amount)):
            account = self.ids[name]
            self.seqs[account] += 1
            side = "dr" if signed < 0 else "cr"
            change = -amount if layer == 2 else amount
            self.counters[account][f"{'posted' if layer == 0 else 'pending'}_{side}"] += change
            seq = None if name in CONTROLS else self.seqs[account]
            rows.append({"txn": txn, "account": account, "amount": signed, "seq": seq, "leg": leg, "layer": layer})
            leg += 1
        self.conn.execute(text("SET LOCAL session_replication_role = replica"))  # legs here come one by one
        for row in rows:
            self.conn.execute(_ENTRY, row)
        self.conn.execute(text("SET LOCAL session_replication_role = origin"))


def write_old(url: str) -> None:
    """Make a database as it was before lots, with balances, holds of every kind, open and ended, and arrears."""
    engine = create_engine(url)
    with engine.begin() as conn:
        config = Config()
        config.set_main_option("script_location", str(Path(ledger.__file__).parent / "migrations"))
        config.attributes["connection"] = conn
        command.upgrade(config, OLD)
        old = OldLedger(conn)
        old.open()
        old.event("earn", 100, ("issued", "ann"))
        old.hold("redeem", 30, ("ann", "redeemed"))
        old.hold("transfer", 20, ("ann", "bob"))
        old.hold("adjust", -3, ("ann", "adjust"))
        old.hold("earn", 7, ("issued", "ann"))
        old.event("redeem", 15, ("bob's debt", "redeemed"), who="bob")
        old.hold("earn", 5, ("issued", "cat"), "post")
        old.hold("earn", 6, ("issued", "cat"), "void")
        old.event("earn", 10, ("issued", "dan"))
        old.hold("redeem", 10, ("dan", "redeemed"), "post")
        old.close()
    engine.dispose()


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    """Lend a pool on a database that was migrated with data in it."""
    write_old(empty_database)
    migrate(empty_database)
    with pool(empty_database) as lent:
        yield lent


def standing(engine: Engine, name: str) -> Balance | None:
    """A member's balance now."""
    with engine.connect() as conn:
        return balance(conn, "north", name)


def test_every_balance_has_an_opening_lot(engine: Engine) -> None:
    """One lot without expiry for all that a member has, reserved as far as holds had set it aside; others have none."""
    with engine.connect() as conn:
        lots = conn.execute(
            text(
                "SELECT a.name, issued, remaining, reserved, txn_id, expires_at, parent, store FROM lot"
                " JOIN account a USING (account_id) ORDER BY a.name"
            )
        ).all()
        parts = conn.execute(text("SELECT hold_id, amount FROM hold_lot ORDER BY hold_id")).all()
        counts = {
            row.name: row.open_holds
            for row in conn.execute(text("SELECT name, open_holds FROM account WHERE kind = 'member'"))
        }
        posted = conn.execute(text("SELECT verdict, posted FROM hold_resolution ORDER BY hold_id")).all()
    assert lots == [("ann", 100, 100, 53, 0, None, None, None), ("cat", 5, 5, 0, 0, None, None, None)]
    assert parts == [(2, 30), (3, 20), (4, 3)]
    assert counts == {"ann": 4, "bob": 0, "cat": 0, "dan": 0}
    assert posted == [("post", 5), ("void", 0), ("post", 10)]
    report = verify(engine)
    assert report.ok, report.discrepancies


def test_balances_are_what_they_were_and_go_on(engine: Engine) -> None:
    """Old holds end, wholly and in part, old debts are repaid first, and old points are spent."""
    assert standing(engine, "ann") == Balance(100, 7, 53, 47, 0)
    assert standing(engine, "bob") == Balance(0, 20, 0, 0, 15)
    writer = Writer(engine)
    with engine.connect() as conn:
        holds = {hold.kind: hold.hold_id for hold in open_holds(conn)}
    answers = writer.end(
        Resolution(holds["redeem"], "post", "eve", "a part", 12),
        Resolution(holds["transfer"], "post", "eve", "fine"),
        Resolution(holds["adjust"], "void", "eve", "no"),
        Resolution(holds["earn"], "post", "eve", "fine"),
    )
    assert [answer.posted for answer in answers] == [12, 20, 0, 7]
    assert standing(engine, "bob") == Balance(5, 0, 0, 5, 0)
    assert [result.code for result in writer.move(redeem("ann", 75), redeem("ann", 1), earn("dan", 4))] == [
        "posted",
        "insufficient_balance",
        "posted",
    ]
    assert standing(engine, "ann") == Balance(0, 0, 0, 0, 0)
    report = verify(engine)
    assert report.ok, report.discrepancies


def test_ids_go_on_behind_those_of_the_opening_lots(engine: Engine) -> None:
    """The lots took their ids from the same sequence as everything else, so no id is ever given twice."""
    with engine.connect() as conn:
        latest = conn.execute(text("SELECT max(lot_id) FROM lot")).scalar_one()
        assert IdBlocks().take(conn, 1)[0] > latest
    with pytest.raises(DBAPIError, match="refused"), engine.begin() as conn:
        conn.execute(text("UPDATE lots_since SET first_id = first_id + 1000"))
