"""Whose messages are embedded only once they are accepted.

As a rule a message is embedded while it is being accepted, so that its reply need not wait for that. Of one that is
refused it was in vain, and a refusal costs the sender nothing: whoever is over a quota may send on and on. So after a
refusal, the messages of its sender wait, until one is accepted.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

# Users that are kept in mind, some 200 bytes each; the one who was refused longest ago is forgotten first.
MOST = 10_000


class InVain:
    """Users whose last message came to nothing new: it was refused, or was there before."""

    def __init__(self) -> None:
        self._users: OrderedDict[UUID, None] = OrderedDict()

    def __contains__(self, user_id: UUID) -> bool:
        return user_id in self._users

    def note(self, user_id: UUID, *, vain: bool) -> None:
        """What became of a user's message."""
        self._users.pop(user_id, None)
        if vain:
            self._users[user_id] = None
            if len(self._users) > MOST:
                self._users.popitem(last=False)
