"""The epoch of a velocity store: its stored form, and what is new in one."""

import pytest

from detectors.velocity_names import DAY_MS, KINDS, Coverage
from streams.velocity_epoch import Epoch


def reaching(**days: int) -> Coverage:
    """A coverage of so many days by kind."""
    return Coverage(tuple(days.get(kind, 0) * DAY_MS for kind in KINDS))


@pytest.mark.parametrize("coverage", [Coverage(), reaching(account=7), reaching(ip_prefix=90, referrer=1)])
def test_an_epoch_is_read_as_it_was_written(coverage: Coverage) -> None:
    """The text form holds token and coverage."""
    epoch = Epoch("0af3", coverage)
    assert Epoch.parse(epoch.text) == epoch


def test_a_bare_token_covers_nothing() -> None:
    """What an older release wrote says nothing about how far its logs reach."""
    assert Epoch.parse("0af3") == Epoch("0af3", Coverage())


@pytest.mark.parametrize("text", ["", "t shop:5", "t account:x"])
def test_what_is_no_epoch_is_refused(text: str) -> None:
    """Never read as something it is not."""
    with pytest.raises(ValueError, match=r".+"):
        Epoch.parse(text)


def test_what_is_new_in_an_epoch() -> None:
    """In another life everything; else the kinds that came, or reach farther back."""
    earlier = Epoch("a", reaching(account=7, device=7))
    assert Epoch("a", reaching(account=30, device=7, staff=1)).grown_since(earlier) == reaching(account=30, staff=1)
    assert Epoch("b", reaching(account=7)).grown_since(earlier) == reaching(account=7)
    assert Epoch("a", reaching(account=7)).grown_since(earlier) == Coverage()
