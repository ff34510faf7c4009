"""Pages of listings: how much one holds, and where the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from chatrpc.errors import InvalidInput

_T = TypeVar("_T")

PAGE_CHARACTERS = 500_000
"""A page ends early once its texts are this long, so that an answer stays below a gRPC message's usual 4 MiB."""


def cut_page(found: Sequence[_T], size: int, characters: Callable[[_T], int]) -> tuple[Sequence[_T], bool]:
    """The items of a page, one at least where there is any, and whether more come after it.

    Args:
        found: As far as was read: one more than the page may have, where there are so many.
        size: Items that were asked for.
        characters: Of an item's texts.
    """
    total = 0
    for index, item in enumerate(found[:size]):
        total += characters(item)
        if total > PAGE_CHARACTERS and index > 0:
            return found[:index], True
    return found[:size], len(found) > size


def id_after(position: str) -> UUID:
    """The position of a page that begins behind an id. Raises InvalidInput."""
    try:
        return UUID(position)
    except ValueError:
        raise bad_position() from None


def bad_position() -> InvalidInput:
    return InvalidInput("page_token", "The page token is not one of this listing's.")
