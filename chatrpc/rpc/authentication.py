"""Each call and stream proves once who it is from."""

from __future__ import annotations

import structlog

from chatrpc.errors import InvalidInput, Reason, Unauthenticated
from chatrpc.rpc.call import Call, metadata_values
from chatrpc.rpc.identity import AUTHORIZATION, ON_BEHALF_OF, TokenVerifier

# Envoy and Kubernetes ask for health without a token. Everything else needs one, reflection included.
_OPEN_PREFIX = "/grpc.health.v1.Health/"


def is_open(method: str) -> bool:
    return method.startswith(_OPEN_PREFIX)


async def authenticate(call: Call, verifier: TokenVerifier) -> None:
    """Set the caller of a call.

    Raises:
        Unauthenticated, PermissionDenied, Unavailable, InvalidInput: As `TokenVerifier.verify`; also where a name is
            sent twice, since whoever stands in front of the server may have looked at the other value.
    """
    if is_open(call.method):
        return
    authorizations = metadata_values(call.context, AUTHORIZATION)
    if len(authorizations) > 1:
        raise Unauthenticated(Reason.TOKEN_INVALID, f"Send the metadata {AUTHORIZATION} once.")
    subjects = metadata_values(call.context, ON_BEHALF_OF)
    if len(subjects) > 1:
        raise InvalidInput(ON_BEHALF_OF, f"Send the metadata {ON_BEHALF_OF} once.")
    call.caller = await verifier.verify(
        authorizations[0] if authorizations else None, subjects[0] if subjects else None
    )
    structlog.contextvars.bind_contextvars(user_id=str(call.caller.user_id))
