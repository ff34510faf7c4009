"""Exceptions become statuses here, and only here."""

from __future__ import annotations

from typing import Never

import structlog
from grpc_status import rpc_status

from chatrpc.errors import ChatError
from chatrpc.rpc.call import Call
from chatrpc.rpc.status import internal_error, status_of

_log = structlog.get_logger("chatrpc.rpc")


def told(error: Exception, call: Call) -> ChatError:
    """What the caller hears of an exception. One that is not meant for callers is logged, and only its request id
    is told: its text may hold anything."""
    if isinstance(error, ChatError):
        return error
    _log.error("unexpected exception", method=call.method, request_id=call.request_id, exc_info=error)
    return internal_error(call.request_id)


async def abort(call: Call, exception: Exception) -> Never:
    """End a call with the status of an exception, by raising grpc's AbortError."""
    error = told(exception, call)
    call.reason = error.reason
    await call.context.abort_with_status(rpc_status.to_status(status_of(error)))
