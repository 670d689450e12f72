"""Links in PostgreSQL: the clusters of the pure core, whatever the batches and however many workers write at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, event, text

from detectors.layout import LINKS, Floats
from detectors.links import ACCOUNT_LINKS_MAX
from ledger.arrays import bigints, run
from streams.link_store import flag
from tests.integration.ledger_writer import pool
from tests.integration.links_world import PROGRAM, Seen, World, expected

ACCOUNTS, FRESH, HELD, POINTS, RISK = range(len(LINKS))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database, which notices a deadlock at once."""
    with pool(database) as made:
        with made.begin() as conn:
            name = conn.execute(text("SELECT current_database()")).scalar_one()
            conn.exec_driver_sql(f'ALTER DATABASE "{name}" SET deadlock_timeout = 20')
        made.dispose()
        yield made


@pytest.fixture
def world(engine: Engine) -> World:
    """A programme without links."""
    return World(engine)


def traffic(rng: random.Random, count: int, *, accounts: int = 60, entities: int = 30) -> list[Seen]:
    """Visits with few devices and fewer addresses, so that rings form, grow together, and hubs break them."""
    device_of = {n: f"d{rng.randrange(entities)}" for n in range(accounts)}
    made = []
    for _ in range(count):
        n = rng.randrange(accounts)
        other = rng.random() < 0.05
        device = f"d{rng.randrange(entities)}" if other else device_of[n]
        ip = None if rng.random() < 0.5 else f"10.0.0.{rng.randrange(entities // 2)}"
        made.append(Seen(f"m{n:03d}", device, ip, hours=0))
    return made


def cut(events: Sequence[Seen], size: int) -> list[Sequence[Seen]]:
    """Batches of `size`."""
    return [events[start : start + size] for start in range(0, len(events), size)]


@pytest.mark.parametrize("size", [1, 7, 400])
def test_clusters_do_not_depend_on_batches(world: World, rng: random.Random, size: int) -> None:
    """One event a transaction, some, or all in one: the clusters are those of all links together."""
    events = traffic(rng, 200 if size == 1 else 400)
    for batch in cut(events, size):
        world.see(*batch)
    assert world.clusters() == expected(events)


def test_workers_on_the_same_entities(world: World, rng: random.Random) -> None:
    """Four workers at once, on the same accounts, devices and clusters: no error, and the clusters of one worker."""
    batches = cut(traffic(rng, 1_600, accounts=90, entities=90), 20)
    start = threading.Barrier(4)

    def work(mine: Sequence[Sequence[Seen]]) -> None:
        worker = world.beside()
        start.wait()
        for batch in mine:
            worker.see(*batch)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, batches[n::4]) for n in range(4)]:
            done.result()
    assert world.clusters() == expected(one for batch in batches for one in batch)


def until_blocked(world: World, sessions: int = 1, unless: Callable[[], bool] = lambda: False) -> None:
    """Return once so many sessions wait for a lock, or there is no need to wait any longer."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for _ in range(100_000):
            if unless() or conn.execute(text(query)).scalar_one() >= sessions:
                return
    raise AssertionError("nobody waits for a lock")


def one_behind_the_other(world: World, first: Sequence[Seen], second: Sequence[Seen]) -> None:
    """Two workers' transactions, of which the second begins before the first commits, and must wait for it."""
    other = world.beside()
    with ThreadPoolExecutor(1) as threads:
        with world.engine.begin() as conn:
            world.observe(conn, first)
            later = threads.submit(other.see, *second)
            until_blocked(world)
        later.result(30)


def test_a_device_that_two_workers_see_first(world: World) -> None:
    """The one that comes second waits for the first one's commit, and joins their accounts."""
    one_behind_the_other(world, [Seen("a", "d1")], [Seen("b", "d1")])
    assert world.clusters() == {frozenset("ab")}


def test_no_account_of_a_crowd_is_overlooked(world: World) -> None:
    """Two workers add one account each to an address, which together make it a hub: the second one counts the first."""
    world.see(Seen("a", None, "10.0.0.1"), Seen("b", None, "10.0.0.1"))
    one_behind_the_other(world, [Seen("c", None, "10.0.0.1")], [Seen("d", None, "10.0.0.1")])
    assert world.clusters() == set()
    assert world.rows("SELECT count(*) FROM link_entity WHERE hub_since IS NOT NULL") == [(1,)]


def test_a_union_of_a_cluster_that_is_just_joined_to_another(world: World) -> None:
    """One worker joins a cluster to a lower one while another joins it to a third: it waits, and looks again."""
    world.see(Seen("a", "d1"), Seen("b", "d2"), Seen("c", "d3"), Seen("d", "d4"))
    one_behind_the_other(world, [Seen("c", "d1"), Seen("x", "d2")], [Seen("d", "d3")])
    assert world.clusters() == {frozenset("acd"), frozenset("bx")}


def test_who_looks_again_waits_for_what_it_finds(world: World) -> None:
    """The second of three finds its cluster joined to one that the third is changing: it waits for that, too."""
    world.see(Seen("a", "d1"), Seen("a", "d6"), Seen("c", "d3"), Seen("d", "d4"), Seen("e", "d5"))
    second, third = world.beside(), world.beside()

    def observe_slowly(later: Future[Floats]) -> None:
        with third.engine.begin() as conn:
            third.observe(conn, [Seen("e", "d6")])
            until_blocked(world, unless=later.done)

    with ThreadPoolExecutor(2) as threads:
        with world.engine.begin() as conn:
            world.observe(conn, [Seen("c", "d1")])
            later = threads.submit(second.see, Seen("d", "d3"))
            until_blocked(world)
            last = threads.submit(observe_slowly, later)
            until_blocked(world, 2)
        last.result(60)
        later.result(60)
    assert world.clusters() == {frozenset("acde")}


def test_a_hub_breaks_up_while_others_join(world: World) -> None:
    """One worker makes an address a hub while another joins its cluster to a device: only that join stays."""
    world.see(Seen("a", "d1", "10.0.0.1"), Seen("b", None, "10.0.0.1"), Seen("c", None, "10.0.0.1"))
    assert world.clusters() == {frozenset("abc")}
    one_behind_the_other(world, [Seen("d", None, "10.0.0.1")], [Seen("e", "d1")])
    assert world.clusters() == {frozenset("ae")}


def test_what_was_seen_adds_nothing(world: World, rng: random.Random) -> None:
    """The same events again, by this worker or by a new one that remembers nothing, change no row."""
    events = traffic(rng, 300)
    world.see(*events)
    before = world.stored()
    world.see(*events)
    world.beside().see(*events)
    assert world.stored() == before


def test_a_batch_that_is_rolled_back_is_forgotten(world: World) -> None:
    """What a failed transaction linked is linked when the batch comes again: only committed rows are remembered."""
    with world.engine.connect() as conn, conn.begin() as transaction:
        world.observe(conn, [Seen("a", "d1"), Seen("b", "d1")])
        transaction.rollback()
    assert world.clusters() == set()
    world.see(Seen("a", "d1"), Seen("b", "d1"))
    world.see(Seen("a", "d1"), Seen("b", "d1"))
    assert world.clusters() == {frozenset("ab")}


class Counter:
    """Counts the statements that go to the database."""

    def __init__(self, engine: Engine) -> None:
        self.statements: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _conn: object, _cursor: object, statement: str, *_rest: object) -> None:
        self.statements.append(statement)

    def about_links(self) -> int:
        """How many statements since the last call were about links."""
        count = sum("link_" in statement or " link " in statement for statement in self.statements)
        self.statements.clear()
        return count


def test_the_number_of_statements_is_bounded(world: World, rng: random.Random) -> None:
    """One a batch once everything is known; and however many links are new, sixteen at most."""
    events = traffic(rng, 500, accounts=300, entities=150)
    counter = Counter(world.engine)
    world.see(*events)
    assert counter.about_links() <= 16
    world.see(*events)  # looked up once more, and remembered from here on
    counter.about_links()
    world.see(*events)
    assert counter.about_links() == 1
    world.see(*[one._replace(device=None, ip=None) for one in events])
    assert counter.about_links() == 1


def test_an_account_that_roams_keeps_so_many_links(world: World) -> None:
    """Beyond the bound further devices tell nothing of it; those it has stay."""
    for start in range(0, ACCOUNT_LINKS_MAX + 100, 100):
        world.see(*[Seen("a", f"d{n}") for n in range(start, start + 100)])
    world.see(Seen("b", "d0"), Seen("c", f"d{ACCOUNT_LINKS_MAX + 50}"))
    counts = "SELECT name, count(*) FROM link JOIN account USING (account_id) GROUP BY name ORDER BY name"
    assert world.rows(counts) == [("a", ACCOUNT_LINKS_MAX), ("b", 1), ("c", 1)]
    assert world.clusters() == {frozenset("ab")}


def test_programmes_do_not_meet(world: World) -> None:
    """The same phone in two programmes is two devices."""
    world.see(Seen("a", "d1"))
    with world.engine.begin() as conn:
        conn.execute(text("INSERT INTO program (program, mode) VALUES ('other', 'simulation')"))
        conn.execute(text("UPDATE link_entity SET program = 'other'"))
    world.beside().see(Seen("b", "d1"))
    assert world.clusters() == set()


def test_features_follow_the_batch(world: World) -> None:
    """Each event sees the cluster as it was made up to there: sign-ups and links before it, none behind it."""
    found = world.see(
        Seen("a", "d1", sign_up=True),
        Seen("a", "d1", hours=1),
        Seen("b", "d1", hours=2, sign_up=True),
        Seen("a", "d9", hours=3),
        Seen("c", "d1", hours=4),
        Seen("a", "d1", hours=5),
    )
    assert found[[1, 3, 5], ACCOUNTS].tolist() == [1.0, 2.0, 3.0]
    assert found[[3, 5], FRESH].tolist() == [2.0, 2.0]


def test_features_of_those_who_are_not_here(world: World) -> None:
    """Points and flags of the other members are read from the ledger; the own flag does not count."""
    world.see(*[Seen(name, "d1") for name in "abcd"])
    ids = dict(world.rows("SELECT name, account_id FROM account WHERE kind = 'member'"))
    with world.engine.begin() as conn:
        row = "UPDATE account SET posted_cr = %(cr)s, posted_dr = %(dr)s, pending_cr = %(in)s, pending_dr = %(out)s, "
        row += "open_holds = %(holds)s WHERE account_id = ANY(%(ids)s)"
        run(conn, row, {"cr": 500, "dr": 20, "in": 7, "out": 30, "holds": 1, "ids": bigints([ids["b"]])})
        run(conn, row, {"cr": 9, "dr": 0, "in": 0, "out": 0, "holds": 0, "ids": bigints([ids["c"]])})
        flag(conn, [ids["a"], ids["d"]])
        flag(conn, [ids["a"]])
    found = world.see(Seen("a"), Seen("b"), Seen("c"), Seen("z"))
    assert found[:, ACCOUNTS].tolist() == [4.0, 4.0, 4.0, 1.0]
    assert found[:, HELD].tolist() == [2.0, 2.0, 3.0, 0.0]
    assert found[:3, POINTS].tolist() == [496.0] * 3
    assert found[2, RISK] > found[0, RISK] > found[3, RISK]


def test_a_plan_for_every_statement(world: World, rng: random.Random) -> None:
    """On tables of some size no statement of the stage reads one from end to end."""
    with world.engine.begin() as conn:
        fill = f"""
        INSERT INTO account (program, kind, name, opened_at)
            SELECT '{PROGRAM}', 'member', 'f' || n, now() FROM generate_series(1, 30000) n;
        INSERT INTO link_entity (program, kind, value)
            SELECT '{PROGRAM}', 'device', decode(lpad(to_hex(n), 32, '0'), 'hex') FROM generate_series(1, 30000) n;
        INSERT INTO link SELECT e.entity_id, a.account_id, now() FROM
            (SELECT entity_id, row_number() OVER () n FROM link_entity) e
            JOIN (SELECT account_id, row_number() OVER () n FROM account WHERE kind = 'member') a USING (n);
        INSERT INTO link_member SELECT account_id, account_id FROM link;
        INSERT INTO link_cluster SELECT account_id, 1 FROM link;
        INSERT INTO link_flag SELECT account_id, 'policy' FROM link;"""  # noqa: S608  # a name from above
        conn.exec_driver_sql(fill)
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("VACUUM ANALYZE")
    sent: dict[str, object] = {}
    event.listen(world.engine, "before_cursor_execute", lambda *a: sent.setdefault(a[2], a[3]))
    for batch in cut(traffic(rng, 300), 60):
        world.see(*batch)
    through = []
    with world.engine.begin() as conn:
        for statement, values in list(sent.items()):
            if "link" in statement:
                plan = run(conn, f"EXPLAIN {statement}", values).scalars().all()  # type: ignore[arg-type]  # as sent
                through += [line for line in plan if "Seq Scan on" in line]
    assert len([statement for statement in sent if "link" in statement]) >= 13
    assert through == []
