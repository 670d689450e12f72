"""The links stage over a real database, with accounts locked as the pipeline locks them: no ledger, no velocity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from detectors.entity import Keys
from detectors.event_types import AccountCreated, Event, Redeem
from detectors.layout import Floats
from detectors.links import DAY_MS, Entity, Graph, Link
from detectors.policy import Links, Sharing
from ledger.batch import lock_batch
from ledger.programs import create_program, load_programs
from streams.links import Linker, Visit

PROGRAM = "trial"
START = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = Links(
    device=Sharing(accounts=6, window_days=30, total=12), ip=Sharing(accounts=3, window_days=2, total=5), fresh_days=30
)


class Seen(NamedTuple):
    """An account with a device, an address or neither, so many hours after the start; a sign-up or a redemption."""

    account: str
    device: str | None = None
    ip: str | None = None
    hours: int = 0
    sign_up: bool = False

    @property
    def at_ms(self) -> int:
        """When it happened, in Unix ms."""
        return int(START.timestamp() * 1000) + self.hours * 3_600_000

    def event(self, number: int) -> Event:
        """The event that shows it."""
        fields: dict[str, Any] = {
            "id": f"e{number}",
            "source": "app",
            "program": PROGRAM,
            "account": self.account,
            "occurred_at": START + timedelta(hours=self.hours),
            "device": self.device,
            "ip": self.ip,
        }
        return AccountCreated(**fields) if self.sign_up else Redeem(**fields, points=1)


class World:
    """A programme and one worker's links stage on it; several share a database through `beside`."""

    def __init__(self, engine: Engine, keys: Keys | None = None) -> None:
        """Create the programme."""
        self.engine = engine
        self.keys = keys or Keys(b"k" * 32)
        self.linker = Linker(self.keys)
        with engine.begin() as conn:
            create_program(conn, PROGRAM, "simulation")
            self.programs = load_programs(conn)

    def beside(self) -> World:
        """Another worker on the same database."""
        return World(self.engine, self.keys)

    def see(self, *batch: Seen, terms: Links = TERMS) -> Floats:
        """One transaction for a batch; the features beside it."""
        with self.engine.begin() as conn:
            return self.observe(conn, batch, terms)

    def observe(self, conn: Connection, batch: Sequence[Seen], terms: Links = TERMS) -> Floats:
        """Lock the accounts of a batch and let the stage see it, in the caller's transaction."""
        opened = {(PROGRAM, one.account): one.at_ms for one in batch}
        members = lock_batch(conn, self.programs, opened).accounts.members
        visits = [
            Visit(one.event(n), members[PROGRAM, one.account], one.at_ms, float("nan")) for n, one in enumerate(batch)
        ]
        return self.linker.observe(conn, visits, terms)

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with self.engine.connect() as conn:
            return [tuple(row) for row in conn.execute(text(query), values)]

    def clusters(self) -> set[frozenset[str]]:
        """The clusters of several accounts, by name; names, sizes and members must fit together."""
        rows = self.rows("""SELECT m.cluster_id, m.account_id, a.name, c.size FROM link_member m
            JOIN account a USING (account_id) LEFT JOIN link_cluster c USING (cluster_id)""")
        found: dict[int, set[str]] = defaultdict(set)
        lowest: dict[int, int] = {}
        sizes = {cluster: size for cluster, _, _, size in rows}
        for cluster, account, name, _ in rows:
            found[cluster].add(name)
            lowest[cluster] = min(account, lowest.get(cluster, account))
        assert {cluster: len(names) for cluster, names in found.items()} == sizes
        assert all(cluster == low for cluster, low in lowest.items())
        assert self.rows("SELECT count(*) FROM link_cluster") == [(len(found),)]
        return {frozenset(names) for names in found.values() if len(names) > 1}

    def stored(self) -> tuple[list[tuple[Any, ...]], ...]:
        """Everything that links keep."""
        tables = ("link_entity", "link", "link_member", "link_cluster", "link_flag")
        return tuple(self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables)  # noqa: S608  # names from above


def expected(batch: Iterable[Seen], terms: Links = TERMS) -> set[frozenset[str]]:
    """The clusters that the pure graph makes of all sightings at once."""
    names: dict[str, int] = {}
    values: dict[tuple[str, str], int] = {}
    links: dict[tuple[int, int], Link] = {}
    entities: dict[int, Entity] = {}
    for one in batch:
        account = names.setdefault(one.account, len(names) + 1)
        for kind, value in (("device", one.device), ("ip", one.ip)):
            if value is not None:
                entity = values.setdefault((kind, value), len(values) + 1)
                entities.setdefault(entity, Entity(getattr(terms, kind)))
                links.setdefault((entity, account), Link(entity, account, one.at_ms))
    graph = Graph(entities, {account: (account,) for account in names.values()})
    for link in links.values():
        graph.see(link)
    back = {account: name for name, account in names.items()}
    found = {frozenset(back[member] for member in graph.members(account)) for account in names.values()}
    return {cluster for cluster in found if len(cluster) > 1}


def by_day(rows: Mapping[str, int]) -> dict[str, float]:
    """Times in Unix ms as days after the start."""
    return {name: (ms - START.timestamp() * 1000) / DAY_MS for name, ms in rows.items()}
