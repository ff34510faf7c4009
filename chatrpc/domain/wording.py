"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things, such as `1 message` and `1,024 messages`.

    Args:
        many: What several are called, where that is not `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
