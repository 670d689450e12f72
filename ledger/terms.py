"""A programme's terms: when its points expire, what is owed, who pays for them and what they are worth. Pure values.

Times are epoch milliseconds; days are of 24 hours, so that a day's length never depends on where a member lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

DAY_MS = 86_400_000
MOST = 2**53 - 1
"""The most points anything may count: integers up to here survive every JSON parser."""

_Days = Annotated[int, msgspec.Meta(ge=0, le=36_525)]
_Points = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
_Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class TermsError(Exception):
    """A programme's terms can't be as asked."""


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a programme promises and demands. The defaults are a programme whose points never expire.

    `expiry_days` after they were earned (or approved: `expiry_from`) points fall due, but never less than `grace_days`
    after they were approved or given back by us. A clawback that the member's points do not cover becomes `arrears`, or
    is forgiven (`clamp`). Manual adjustments above `adjust_limit` need a second person. With `funding` by store, a
    movement that names a store is charged to that store's account. `unit` and `funding` are for life.

    For money, a point is worth `unit_value_micros` millionths of the minor unit of `money`, and `redemption_rate_ppm`
    of all points are expected to be redeemed; `cohorts` are other rates from an age in months on, youngest first.
    """

    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "points"
    expiry_days: Annotated[int, msgspec.Meta(ge=1, le=36_525)] | None = None
    expiry_from: Literal["earned", "approved"] = "earned"
    grace_days: _Days = 0
    shortfall: Literal["arrears", "clamp"] = "arrears"
    max_open_holds: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    max_posting: _Points = MOST
    max_balance: _Points = MOST
    adjust_limit: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 10_000
    funding: Literal["program", "store"] = "program"
    refund_restores: bool = True
    money: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "CNY"
    unit_value_micros: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    redemption_rate_ppm: _Ppm = 1_000_000
    cohorts: tuple[tuple[Annotated[int, msgspec.Meta(ge=0, le=1_200)], _Ppm], ...] = ()


DEFAULT_TERMS = Terms()


def read_terms(document: Mapping[str, Any]) -> Terms:
    """Make terms of a JSON document, such as the column `program.terms`; what it does not say has its default.

    Raises TermsError for a name or value that is not of terms.
    """
    try:
        terms = msgspec.convert(document, Terms)
    except msgspec.ValidationError as error:
        raise TermsError(f"these are no terms of a programme: {error}") from error
    ages = [months for months, _ in terms.cohorts]
    if ages != sorted(set(ages)):
        raise TermsError("cohorts must be in the order of their age, each age once")
    return terms


def terms_document(terms: Terms) -> dict[str, Any]:
    """Return terms as a JSON document without what is a default: `read_terms` turns it back."""
    document: dict[str, Any] = msgspec.to_builtins(terms)
    return document


def check_change(old: Terms, new: Terms) -> None:
    """Raise TermsError where `new` changes what is for life: open holds and lots were made under it."""
    for name in ("unit", "funding"):
        if getattr(old, name) != getattr(new, name):
            raise TermsError(f"{name} is {getattr(old, name)!r} for life; make another programme")


def lot_expiry(terms: Terms, earned_ms: int, approved_ms: int) -> int | None:
    """Return when points fall due that were earned and approved then; None if never."""
    if terms.expiry_days is None:
        return None
    base = earned_ms if terms.expiry_from == "earned" else approved_ms
    return max(base + terms.expiry_days * DAY_MS, approved_ms + terms.grace_days * DAY_MS)
