"""A programme's terms: read and written as JSON, refused with a reason, and what they say of expiry."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.terms import DAY_MS, DEFAULT_TERMS, Terms, TermsError, check_change, lot_expiry, read_terms, terms_document

NAMES = {"expiry_days": 365, "shortfall": "clamp", "cohorts": ((12, 800_000), (24, 500_000)), "money": "EUR"}


def test_nothing_said_is_all_defaults() -> None:
    """An empty document, as every old programme has it, is a programme whose points never expire."""
    assert read_terms({}) == DEFAULT_TERMS
    assert terms_document(DEFAULT_TERMS) == {}


def test_terms_survive_their_document() -> None:
    """What is written is what is read, defaults left out."""
    terms = Terms(**NAMES)  # type: ignore[arg-type]  # names of terms
    document = terms_document(terms)
    assert set(document) == set(NAMES)
    assert read_terms(document) == terms


@pytest.mark.parametrize(
    "document",
    [
        {"expiry": 5},
        {"expiry_days": 0},
        {"expiry_days": 1.5},
        {"expiry_days": "365"},
        {"grace_days": -1},
        {"shortfall": "forget"},
        {"max_posting": 2**53},
        {"max_open_holds": 0},
        {"money": "yuan"},
        {"redemption_rate_ppm": 1_000_001},
        {"cohorts": [[24, 1], [12, 2]]},
        {"cohorts": [[12, 1], [12, 2]]},
    ],
)
def test_what_is_no_term_is_refused(document: dict[str, Any]) -> None:
    """A misspelt name, a fraction, a number out of range or cohorts out of order are told, not guessed at."""
    with pytest.raises(TermsError):
        read_terms(document)


def test_some_terms_are_for_life() -> None:
    """The unit and who funds it can't change under open holds and lots; all else may."""
    check_change(Terms(), Terms(expiry_days=5, max_posting=10))
    with pytest.raises(TermsError, match="funding"):
        check_change(Terms(), Terms(funding="store"))
    with pytest.raises(TermsError, match="unit"):
        check_change(Terms(), Terms(unit="stars"))


@pytest.mark.parametrize(
    ("terms", "days"),
    [
        (Terms(), None),
        (Terms(expiry_days=10), 10),
        (Terms(expiry_days=10, expiry_from="approved"), 13),
        (Terms(expiry_days=2), 3),
        (Terms(expiry_days=2, grace_days=5), 8),
        (Terms(expiry_days=20, grace_days=5), 20),
        (Terms(grace_days=5), None),
    ],
)
def test_points_expire_by_the_terms(terms: Terms, days: int | None) -> None:
    """Earned on day 0 and approved on day 3: counted from either, but never less than the grace after the approval."""
    assert lot_expiry(terms, 0, 3 * DAY_MS) == (None if days is None else days * DAY_MS)


@given(st.integers(1, 1000), st.integers(0, 100), st.integers(0, 10**12), st.integers(0, 10**12))
def test_who_waits_for_approval_loses_no_grace(days: int, grace: int, earned: int, wait: int) -> None:
    """However long a review takes, at least the days of grace are left when it ends."""
    expires = lot_expiry(Terms(expiry_days=days, grace_days=grace), earned, earned + wait)
    assert expires is not None
    assert expires >= max(earned + days * DAY_MS, earned + wait + grace * DAY_MS)
