"""Taking back on PostgreSQL: what is read for it, also of the batch that it comes in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger import originals, pools
from ledger.batch import lock_batch
from ledger.book import Resolution
from ledger.programs import load_programs
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, earn, pool, redeem, transfer
from tests.integration.reversal_books import Books, reverse

DAY_MS = 86_400_000


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    """Books of one programme; at the end the ledger proves itself."""
    with pool(database) as engine:
        made = Books(engine)
        yield made
        report = verify(engine)
        assert report.ok, report.discrepancies


def test_an_earn_is_traced_through_members_holds_and_lots(books: Books) -> None:
    """Own lot, its hold, bob's share and cid's held share, other lots, arrears: in this order, each as it stands."""
    books.move(earn("ann", 100, event_id="e-1"), earn("bob", 500))
    books.move(
        transfer("ann", "bob", 30, event_id="t-1"),
        redeem("ann", 20, verdict="hold", event_id="r-1", due_seconds=60, on_timeout="void"),
        redeem("ann", 40, event_id="r-2"),
        earn("ann", 7),
    )
    assert books.back("e-1", 25) == "posted"
    assert books.parts("e-1") == [{"from_lot": 10, "from_reserved": 15}]
    assert books.open_holds() == [("redeem", 5)]
    assert books.back("e-1") == "posted"
    assert books.parts("e-1")[1] == {"from_reserved": 5, "from_traced": 30, "from_other": 7, "to_arrears": 33}
    assert (books.money("ann"), books.money("bob")) == ((0, 0, 33), (500, 0, 0))
    assert books.open_holds() == []
    assert books.back("e-1") == "nothing_to_reverse"
    assert {row.actor for row in books.rows("SELECT actor FROM review_decision")} == {"policy:reversal"}


def test_a_redemption_goes_back_to_used_up_lots(books: Books) -> None:
    """Lots that were closed open again, in two steps; then the earn that gave one takes it."""
    books.move(
        earn("ann", 50, event_id="e-1", expires_ms=START_MS + DAY_MS), earn("ann", 50), redeem("ann", 90, event_id="r")
    )
    assert [books.back("r", 60), books.back("r"), books.back("r")] == ["posted", "posted", "nothing_to_reverse"]
    lots = books.rows("SELECT remaining, issued FROM lot ORDER BY lot_id")
    assert [tuple(row) for row in lots] == [(50, 50), (50, 50)]
    assert books.back("e-1") == "posted"
    assert books.money("ann") == (50, 0, 0)


def test_held_again_and_again_is_one_movement(books: Books) -> None:
    """Each part taken replaces the hold; its event, its time and what it may still give stay."""
    books.move(earn("ann", 100, verdict="hold", event_id="e-1", due_seconds=3_600, on_timeout="post"))
    assert [books.back("e-1", points) for points in (10, 20)] == ["posted", "posted"]
    (hold,) = books.rows("SELECT * FROM hold WHERE resolved_at IS NULL")
    (first,) = books.rows("SELECT * FROM hold WHERE replaces IS NULL")
    assert (hold.amount, hold.due_at, hold.on_timeout) == (70, first.due_at, "post")
    books.end(Resolution(hold.hold_id, "post", "ann.alyst", "fine", 60))
    assert books.back("e-1") == "posted"
    assert books.parts("e-1") == [{"from_hold": 10}, {"from_hold": 20}, {"from_lot": 60}]
    assert books.back("e-1") == "nothing_to_reverse"


def test_a_transfer_that_was_partly_approved_with_grace(database: str) -> None:
    """Of a held transfer 30 of 80 go through when the lot is over: the rest has the grace, only the 30 come back."""
    with pool(database) as engine:
        books = Books(engine, grace_days=3)
        books.move(
            earn("ann", 80, expires_ms=START_MS + DAY_MS), transfer("ann", "bob", 80, verdict="hold", event_id="t")
        )
        books.tick(START_MS + 2 * DAY_MS)
        (hold,) = books.rows("SELECT hold_id FROM hold")
        books.end(Resolution(hold.hold_id, "post", "ann.alyst", "a part", 30))
        assert (books.money("ann"), books.money("bob")) == ((50, 0, 0), (30, 0, 0))
        assert books.back("t") == "posted"
        assert (books.money("ann"), books.money("bob")) == ((80, 0, 0), (0, 0, 0))
        assert books.parts("t") == [{"from_lot": 30}]
        assert verify(engine).ok


def test_a_fact_transfer_is_fetched_with_what_the_sender_lacked(books: Books) -> None:
    """The receiver's lot without a parent is found by its transaction's id, also through cid."""
    books.move(earn("ann", 30), transfer("ann", "bob", 100, fact=True, event_id="t"), transfer("bob", "cid", 100))
    assert books.back("t") == "posted"
    assert (books.money("ann"), books.money("cid")) == ((30, 0, 0), (0, 0, 0))


def test_what_came_before_in_the_same_batch(books: Books) -> None:
    """Each reverse sees all that stands before it and nothing behind it; others in the batch are not disturbed."""
    results = books.move(
        reverse("e-1"),
        earn("ann", 100, event_id="e-1"),
        transfer("ann", "bob", 60),
        earn("dan", 5),
        reverse("e-1", 80),
        redeem("bob", 20),
        earn("ann", 50, event_id="e-2"),
        reverse("e-1"),
        reverse("e-2", 10),
        redeem("dan", 5),
    )
    codes = [result.code for result in results]
    assert codes == [
        *("unknown_original", "posted", "posted", "posted", "posted", "posted", "posted", "posted", "posted", "posted"),
    ]
    assert books.parts("e-1") == [{"from_lot": 40, "from_traced": 40}, {"from_other": 20}]
    assert books.parts("e-2") == [{"from_lot": 10}]
    assert [books.money(name) for name in ("ann", "bob", "dan")] == [(20, 0, 0), (0, 0, 0), (0, 0, 0)]


def test_a_hold_of_this_batch_is_ended_by_a_reverse_of_it(books: Books) -> None:
    """A redemption held a moment ago gives up the points that the next event takes back."""
    books.move(earn("ann", 100, event_id="e-1"))
    results = books.move(redeem("ann", 100, verdict="hold"), reverse("e-1", 60), redeem("ann", 1, verdict="hold"))
    assert [result.code for result in results] == ["held", "posted", "insufficient_balance"]
    assert books.open_holds() == [("redeem", 40)]


def test_only_its_own_account_and_programme(books: Books) -> None:
    """A wrong account or programme touches nobody, whether it exists or not."""
    other = Books(books.engine, "south")
    books.move(earn("ann", 100, event_id="e-1"))
    other.move(earn("ann", 100, event_id="e-2"))
    assert [books.back("e-1", account="bob"), books.back("e-2"), other.back("e-1")] == ["unknown_original"] * 3
    mixed = other.move(earn("ann", 1, event_id="e-3"), reverse("e-3", program="north"), reverse("e-1", program="north"))
    assert [result.code for result in mixed] == ["posted", "unknown_original", "posted"]
    assert (books.money("ann"), other.money("ann")) == ((0, 0, 0), (101, 0, 0))


def test_programmes_that_a_batch_is_not_about_need_not_be_known(books: Books) -> None:
    """A worker that has not heard of a programme yet is not stopped by a reverse that names an event of it."""
    other = Books(books.engine, "south")
    other.move(earn("ann", 100, event_id="e-2"))
    with books.engine.begin() as conn:
        north = {"north": load_programs(conn)["north"]}
        locked = lock_batch(conn, north, {("north", "ann"): START_MS}, {("till", "e-2")})
        assert set(locked.accounts.members) == {("north", "ann")}


def test_an_order_is_refunded_step_by_step(books: Books) -> None:
    """Many small refunds come to the same as one; each is done once; what was spent on it comes back."""
    books.move(
        earn("ann", 500),
        earn("ann", 77, order="o-1", event_id="e-1"),
        redeem("ann", 33, order="o-1", event_id="r-1"),
        transfer("ann", "bob", 10, order="o-1"),
    )
    for number in range(9):
        assert books.refund(f"f-{number}", 111) == "posted"
        assert books.refund(f"f-{number}", 111) == "duplicate"
        assert sum(sum(parts.values()) for parts in books.parts("e-1")) == 77 * 111 * (number + 1) // 1_000
    assert books.refund("last", 500) == "posted"
    assert sum(parts.get("restored", 0) for parts in books.parts("r-1")) == 33
    assert books.money("ann")[0] == 500 - 10
    assert books.refund("more", 5) == "posted"
    assert books.refund("other", 5, order="o-9") == "unknown_original"
    assert books.refund("free", 0) == "points_out_of_range"


def test_merged_members_keep_their_points_and_their_past(books: Books) -> None:
    """Points, debts and memberships pass on; old events are taken back from the one that stays, by either name."""
    books.move(earn("ann", 100, event_id="e-1"), redeem("ann", 30, event_id="r-1"), redeem("eve", 25, fact=True))
    with books.engine.begin() as conn:
        assert pools.join_pool(conn, load_programs(conn), "north", "home", "ann", "boss")
    assert books.merge("ann", "nobody") == "unknown_account"
    assert books.merge("ann", "ann") == "same_account"
    assert books.merge("ann", "eve") == "posted"
    assert books.merge("ann", "eve") == "account_merged"
    assert books.money("eve") == (45, 0, 0)
    assert books.back("r-1") == "posted"
    assert books.back("e-1", 80, account="eve") == "posted"
    assert books.money("eve") == (0, 0, 5)
    books.move(earn("ann", 20, event_id="e-2"), transfer("ann", "pool:home", 5, event_id="t-1"))
    assert (books.money("eve"), books.money("pool:home")) == ((10, 0, 0), (5, 0, 0))
    assert books.merge("eve", "nobody") == "unknown_account"
    books.move(earn("zoe", 1), redeem("eve", 3, verdict="hold"))
    assert books.merge("eve", "zoe") == "open_holds"
    assert books.merge("zoe", "eve") == "posted"


def test_a_pool_has_members_who_come_and_go(books: Books) -> None:
    """Only members spend and put in; the clock of a simulation may stand still meanwhile; reversals go to the pool."""
    programs = {}
    with books.engine.begin() as conn:
        programs = load_programs(conn)
        joined = [pools.join_pool(conn, programs, "north", "home", name, "boss") for name in ("ann", "bob", "ann")]
        assert joined == [True, True, False]
    books.move(earn("ann", 100))
    spent = redeem("bob", 40, pool="home", event_id="r-1")
    codes = [one.code for one in books.move(transfer("ann", "pool:home", 90), spent, redeem("cid", 1, pool="home"))]
    assert codes == ["posted", "posted", "not_in_pool"]
    for _ in range(3):
        with books.engine.begin() as conn:
            assert pools.leave_pool(conn, programs, "north", "home", "bob")
            assert not pools.leave_pool(conn, programs, "north", "home", "bob")
            assert pools.join_pool(conn, programs, "north", "home", "bob", "boss")
    with books.engine.begin() as conn:
        assert pools.leave_pool(conn, programs, "north", "home", "bob")
        assert not pools.leave_pool(conn, programs, "north", "attic", "bob")
    assert books.move(redeem("bob", 1, pool="home"))[0].code == "not_in_pool"
    assert books.back("r-1", account="bob") == "posted"
    assert books.money("pool:home") == (90, 0, 0)
    with books.engine.connect() as conn:
        listed = [(one.pool, one.member, one.points) for one in pools.memberships(conn, "north")]
        assert listed == [("home", "ann", 90)]


def test_a_store_that_paid_gets_its_points_back(database: str) -> None:
    """Where stores fund the points; a hold that is held again stays the store's, too."""
    with pool(database) as engine:
        books = Books(engine, funding="store")
        books.move(
            earn("ann", 100, store="s-1", event_id="e-1"),
            redeem("ann", 60, store="s-2", event_id="r-1", verdict="hold"),
            redeem("ann", 10, store="s-3", event_id="r-2"),
        )
        assert [books.back("e-1", 50), books.back("r-2")] == ["posted", "posted"]
        assert books.open_holds() == [("redeem", 40)]
        found = books.rows("""
            SELECT a.name, sum(d.posted_cr - d.posted_dr) AS posted, sum(d.pending_cr) AS pending
              FROM account a JOIN control_delta d USING (account_id) WHERE a.kind = 'store' GROUP BY 1 ORDER BY 1""")
        assert [tuple(row) for row in found] == [("s-1", -50, 0), ("s-2", 0, 40), ("s-3", 0, 0)]
        assert verify(engine).ok


def test_following_points_ends_somewhere(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many lots or moves nothing is traced: the member pays. So nobody makes a reversal endless."""
    shallow = originals._TREES.replace(f"tree.depth < {originals.MOVES_MOST}", "tree.depth < 2")
    monkeypatch.setattr(originals, "_TREES", shallow)
    books.move(earn("ann", 100, event_id="e-1"))
    for sender, receiver in (("ann", "bob"), ("bob", "cid"), ("cid", "dan"), ("dan", "eve")):
        books.move(transfer(sender, receiver, 100))
    assert books.back("e-1") == "posted"
    assert books.parts("e-1") == [{"to_arrears": 100}]
