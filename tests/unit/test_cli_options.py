"""What commands take: the names of those who do something, and documents."""

import getpass

import pytest

from cli.errors import CommandError
from cli.options import maker_or_user


@pytest.mark.parametrize(
    ("given", "name"), [("li.na", "li.na"), (" 李娜 ", "李娜"), ("ｌｉ．ｎａ", "li.na"), (None, getpass.getuser())]
)
def test_a_name_is_taken_as_it_is_seen(given: str | None, name: str) -> None:
    """Blanks around it and the width of its letters make nobody somebody else; without one it is this user's."""
    assert maker_or_user(given) == name


@pytest.mark.parametrize(
    "given", [" ", "li.na\u200b", "li\u00ad.na", "li\tna", "x" * 129, "policy:timeout", "PointGuard:relay"]
)
def test_what_is_no_name_of_a_person_is_refused(given: str) -> None:
    """What cannot be seen would let an author approve as somebody else; the product's own names are nobody's."""
    with pytest.raises(CommandError):
        maker_or_user(given)
