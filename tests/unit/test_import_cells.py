"""Numbers, dates and names as people write them: read exactly, or refused with the remedy."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.import_cells import NEVER_WORDS, CellError, Reading, moment_in, name_in, points_in
from ledger.movement import MAX_POINTS

NOW_MS = 1_800_000_000_000
CREDIT = Reading("credit", UTC, NOW_MS)
DEBIT = Reading("debit", UTC, NOW_MS)
EUROPEAN = Reading("credit", UTC, NOW_MS, grouped=False)
SHANGHAI = ZoneInfo("Asia/Shanghai")
WIDE = str.maketrans("0123456789,+", "０１２３４５６７８９，＋")


def remedied(read: Callable[[], int | str]) -> int | str | None:
    """What was read; None where it was refused with a remedy."""
    try:
        return read()
    except CellError as error:
        what, _, remedy = str(error).partition("; ")
        return None if what and remedy else f"no remedy: {error}"


def refusal(text: str, reading: Reading = CREDIT) -> str:
    """What is said of a number that is refused."""
    with pytest.raises(CellError) as error:
        points_in(text, reading)
    return str(error.value)


@given(st.integers(1, MAX_POINTS), st.booleans(), st.booleans(), st.sampled_from(["", " ", "　"]), st.integers(0, 3))
def test_every_way_to_write_a_number_gives_that_number(
    points: int, grouped: bool, wide: bool, blank: str, zeros: int
) -> None:
    """Plain, with thousands separators, full-width, with a plus, blanks or leading zeros."""
    text = f"{points:,}" if grouped else f"{'+' if zeros == 3 else '0' * zeros}{points}"
    assert points_in(f"{blank}{text.translate(WIDE) if wide else text}{blank}", CREDIT) == points


@given(st.one_of(st.text(max_size=30), st.text("0123456789０１２,.，+-−eE万 ", max_size=25)))
def test_whatever_is_written_is_a_number_or_has_a_remedy(text: str) -> None:
    """Nothing else is raised, and no number comes out that the digits do not say."""
    points = remedied(lambda: points_in(text, CREDIT))
    if points is not None:
        assert 0 < int(points) <= MAX_POINTS
        assert int("".join(str(int(one)) for one in text if one.isdigit())) == points


@pytest.mark.parametrize("text", ["1.0", "1.000", "100.00", "0.5", "1,00", "1.000,00", "1 000", "1'000", "12,3456"])
def test_fractions_and_odd_separators_are_refused(text: str) -> None:
    """A point may be a decimal one or not, and points have no fractions: nobody guesses."""
    assert "whole number" in refusal(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("0", "zero"),
        ("0000", "zero"),
        ("-5", "--as debit"),
        ("－５", "--as debit"),
        ("1e3", "spreadsheet"),
        ("5万", "50000"),
        ("3k", "digits"),
        ("abc", "digits only"),
        ("٣", "digits only"),
        ("5²", "digits only"),
        ("①", "digits only"),
        ("½", "digits only"),
        ("NaN", "digits only"),
        ("0x10", "digits only"),
        (str(MAX_POINTS + 1), "at most"),
        ("9" * 5000, "5000 digits"),
    ],
)
def test_a_refusal_names_the_remedy(text: str, word: str) -> None:
    """Each has its own way out."""
    assert word in refusal(text)


def test_a_comma_between_semicolons_is_ambiguous() -> None:
    """Where columns are separated by semicolons, 1,000 may be one: refused."""
    assert points_in("1,000", CREDIT) == 1000
    assert "write 1000" in refusal("1,000", EUROPEAN)
    assert "without a minus" in refusal("-5", DEBIT)


@given(st.integers(32_000_000_000, 7_255_000_000_000), st.integers(-12 * 60, 14 * 60))
def test_a_time_with_its_offset_is_that_moment(expected: int, minutes: int) -> None:
    """Milliseconds since 1970; the zone of the file does not matter."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=expected)
    at = at.astimezone(timezone(timedelta(minutes=minutes)))
    assert moment_in(at.isoformat(), SHANGHAI, end_of_day=True) == expected
    assert moment_in(at.isoformat().replace("T", "  "), UTC, end_of_day=False) == expected


@pytest.mark.parametrize(
    "text", ["2027-12-31", "2027/12/31", "2027.12.31", "20271231", "2027年12月31日", "２０２７-12-31", " 2027-12-31 "]
)
def test_a_date_is_the_whole_day_in_the_zone_of_the_file(text: str) -> None:
    """Points that expire on a day may be used on that day."""
    assert moment_in(text, SHANGHAI, end_of_day=True) == ms(datetime(2028, 1, 1, tzinfo=SHANGHAI))
    assert moment_in(text, SHANGHAI, end_of_day=False) == ms(datetime(2027, 12, 31, tzinfo=SHANGHAI))


@pytest.mark.parametrize("text", ["2027-12-31 08:30", "2027年12月31日08:30", "2027-12-31T08:30:00.000"])
def test_a_time_without_offset_is_in_the_zone_of_the_file(text: str) -> None:
    """As a till or a spreadsheet writes it."""
    assert moment_in(text, SHANGHAI, end_of_day=True) == ms(datetime(2027, 12, 31, 8, 30, tzinfo=SHANGHAI))


@pytest.mark.parametrize(
    "text", ["12/31/2027", "31.12.2027", "46022", "2027-13-01", "2027-02-29", "tomorrow", "2027-12-31T25:00",
             "2027-12-31T", "2027-12-3112:00", "1066-10-14", "2300-01-01", "2027-12-31T10:00+99:00"]
)  # fmt: skip
def test_a_date_that_could_mean_two_things_or_none_is_refused(text: str) -> None:
    """Day and month are never guessed, nor serial numbers of spreadsheets."""
    with pytest.raises(CellError, match="; "):
        moment_in(text, UTC, end_of_day=False)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_dates(text: str) -> None:
    """A moment, or a remedy."""
    assert isinstance(remedied(lambda: moment_in(text, SHANGHAI, end_of_day=True)), int | None)


@given(st.text(max_size=150))
def test_a_name_is_kept_as_it_is_or_refused(text: str) -> None:
    """What comes out can be stored, and is what was written but for blanks around it."""
    name = remedied(lambda: name_in(text, "account"))
    if name is not None:
        assert name == text.strip()
        assert 1 <= len(str(name)) <= 128
        assert str(name).encode().decode() == name
        assert "\x00" not in str(name)


@pytest.mark.parametrize(
    ("text", "word"),
    [("１３８", "0-9"), ("1.38E+10", "spreadsheet"), ("a\nb", "line break"), ("x" * 129, "128"), ("\ud800", "control")],
)
def test_names_that_are_mistakes_are_refused(text: str, word: str) -> None:
    """Full-width digits and what a spreadsheet shortened would be other members."""
    with pytest.raises(CellError, match=word):
        name_in(text, "account")


def test_words_for_never_are_known() -> None:
    """In both languages."""
    assert {"never", "永久"} <= NEVER_WORDS


def ms(at: datetime) -> int:
    """Epoch milliseconds."""
    return int(at.timestamp()) * 1000
