"""The claim by which a token sets limits of its own."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatrpc.domain import Quota, QuotaWindow
from chatrpc.settings import QuotaSettings


class _Claim(BaseModel):
    """What is not known is left alone: issuers serve other programs, too."""

    model_config = ConfigDict(frozen=True)

    window: QuotaWindow | None = None
    # Strictly, since `true` would be 1 otherwise.
    tokens: int | None = Field(default=None, strict=True, ge=0, lt=2**62)
    turns: int | None = Field(default=None, strict=True, ge=0, lt=2**62)


def quota_of(settings: QuotaSettings, claims: Mapping[str, object]) -> Quota:
    """The limits of a token: its own where its claim names them, else the settings'.

    Raises:
        ValueError: The claim is malformed; the sentence says so. To ignore it could lift a limit.
    """
    quota = Quota(QuotaWindow(settings.window), settings.tokens, settings.turns)
    claim = claims.get(settings.claim)
    if claim is None:
        return quota
    try:
        # AWS Cognito's custom claims are strings.
        own = _Claim.model_validate_json(claim) if isinstance(claim, str) else _Claim.model_validate(claim)
    except ValidationError:
        raise ValueError(
            f"its {settings.claim} claim must be an object of tokens, turns (whole numbers or null) and window "
            "(hour, day or month)"
        ) from None
    named = own.model_fields_set
    return Quota(
        window=own.window or quota.window,
        tokens=own.tokens if "tokens" in named else quota.tokens,
        turns=own.turns if "turns" in named else quota.turns,
    )
