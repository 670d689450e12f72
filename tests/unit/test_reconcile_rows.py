"""Rows of other systems' files: events or balances, in English or Chinese, and a dump of our own topic."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest

from ledger.reconcile_rows import (
    BalanceRow,
    ColumnsError,
    EventRow,
    Problem,
    Reading,
    balances,
    columns_of,
    events,
    kind_of,
)

READING = Reading("main", None, timezone(timedelta(hours=8)))
TILL = Reading("main", "till", UTC)


def test_columns_are_known_by_many_names() -> None:
    """English and Chinese, whatever the case and the underscores; what means nothing here is passed over."""
    assert columns_of(["Source", "Event_ID", "会员卡号", "积分", "交易时间", "cashier"]) == {
        "source": "Source",
        "event_id": "Event_ID",
        "account": "会员卡号",
        "points": "积分",
        "at": "交易时间",
    }


@pytest.mark.parametrize(
    ("names", "reading", "kind"),
    [
        (["member", "balance"], READING, "balances"),
        (["id", "source", "account", "points"], READING, "events"),
        (["id", "account", "points"], TILL, "events"),
    ],
)
def test_a_file_of_events_names_them(names: list[str], reading: Reading, kind: str) -> None:
    """Rows with ids are events, without them balances."""
    assert kind_of(names, reading) == kind


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["id", "account", "points"], "--source"),
        (["id", "points"], "no column account"),
        (["account"], "no column points"),
        (["account", "member", "points"], "both account"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_remedy(names: list[str], words: str) -> None:
    """A missing or doubled column is said before any row is read."""
    with pytest.raises(ColumnsError, match=words):
        kind_of(names, READING)


def test_events_are_read_as_they_are_written() -> None:
    """A time without a zone is in that of the reading; points may be signed, grouped, or full-width."""
    rows: list[tuple[int, dict[str, str] | str]] = [
        (2, {"source": "pos", "id": "e1", "account": "m-1", "points": "1,000", "time": "2026-03-01 10:00"}),
        (3, {"source": "pos", "id": "e2", "account": "m-1", "points": "-20", "time": ""}),
        (4, {"source": "pos", "id": "e3", "account": "m-1", "points": "１２", "time": ""}),
    ]
    assert list(events(rows, READING)) == [
        EventRow(2, "pos", "e1", "m-1", 1000, None, 1_772_330_400_000),
        EventRow(3, "pos", "e2", "m-1", -20, None, None),
        EventRow(4, "pos", "e3", "m-1", 12, None, None),
    ]


def test_a_dump_of_the_topic_is_such_a_file() -> None:
    """Our own events, of several kinds and programmes: what moves points of this programme is compared."""
    base = {"source": "pos", "program": "main", "account": "m-1", "occurred_at": "2026-03-01T10:00:00.123Z"}
    rows: list[tuple[int, dict[str, str] | str]] = [
        (1, base | {"id": "e1", "type": "earn", "points": "5", "device": "d"}),
        (2, base | {"id": "e2", "type": "login"}),
        (3, base | {"id": "e3", "type": "earn", "points": "5", "program": "other"}),
        (4, base | {"id": "e4", "type": "reverse", "reverses": "e1"}),
    ]
    assert list(events(rows, READING)) == [
        EventRow(1, "pos", "e1", "m-1", 5, "earn", 1_772_359_200_123),
        EventRow(4, "pos", "e4", "m-1", 0, "reverse", 1_772_359_200_123),
    ]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"points": "1.5"}, "points is '1.5'"),
        ({"points": ""}, "points is ''"),
        ({"points": "1e5"}, "no whole number"),
        ({"points": "9007199254740992"}, "at most"),
        ({"points": "9" * 5000}, "at most"),
        ({"id": ""}, "id is empty"),
        ({"account": "m\n1"}, "account holds"),
        ({"time": "03/04/2026"}, "time is"),
        ({"source": ""}, "source is empty"),
    ],
)
def test_a_row_that_cannot_be_read_is_a_problem_of_its_own(cells: dict[str, str], words: str) -> None:
    """Its line, its column, and what is wrong; the other rows are compared."""
    good = {"source": "pos", "id": "e1", "account": "m-1", "points": "1", "time": ""}
    found = list(events([(7, good | cells), (8, "is no CSV; correct it"), (9, good)], READING))
    assert isinstance(found[0], Problem)
    assert (found[0].line, words in found[0].detail) == (7, True), found[0]
    assert found[1] == Problem(8, "is no CSV; correct it")
    assert isinstance(found[2], EventRow)


def test_a_grouped_number_is_refused_where_it_could_be_a_fraction() -> None:
    """In a file with semicolons the comma may be a decimal one: nothing is guessed."""
    reading = Reading("main", None, UTC, grouped=False)
    assert isinstance(next(balances([(2, {"account": "m", "points": "1,000"})], reading)), Problem)


def test_balances_are_read() -> None:
    """An account and its points, zero and below included."""
    rows: list[tuple[int, dict[str, str] | str]] = [
        (2, {"会员": "m-1", "积分余额": "0"}),
        (3, {"会员": "m-2", "积分余额": "-5"}),
        (4, {"会员": "", "积分余额": "5"}),
        (5, "has 1 cells"),
    ]
    assert list(balances(rows, READING)) == [
        BalanceRow(2, "m-1", 0),
        BalanceRow(3, "m-2", -5),
        Problem(4, "会员 is empty; every row needs its account"),
        Problem(5, "has 1 cells"),
    ]
