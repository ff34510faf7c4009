"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from chatrpc.domain.usage import NO_QUOTA, Quota


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, derived from a verified token and nothing else.

    Attributes:
        user_id: Owner of every row that the call may touch.
        subject: The subject acted for: the token's own, or the one a service acts for.
        issuer: The token's issuer.
        actor: The token's own subject where it acts for somebody else, else None.
        scopes: Scopes of the token.
        expires_at: Seconds since the epoch at which the token ends.
        quota: What the user may use: the settings' limits, or the token's own.
    """

    user_id: UUID
    subject: str
    issuer: str
    actor: str | None
    scopes: frozenset[str]
    expires_at: float
    quota: Quota = NO_QUOTA
