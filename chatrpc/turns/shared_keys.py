"""Names in Redis."""

from __future__ import annotations

from uuid import UUID


def reply_key(reply_id: UUID) -> str:
    """The stream of a reply's log, and the channel on which it is said that there is something new in it."""
    return f"chatrpc:reply:{reply_id}"


def process_key(process_id: UUID) -> str:
    """The channel of a server process."""
    return f"chatrpc:process:{process_id}"
