"""One log line a call: who called what and how it ended; never a text or a token."""

from __future__ import annotations

import time

import grpc
import structlog

from chatrpc.rpc.authentication import is_open
from chatrpc.rpc.call import Call

_log = structlog.get_logger("chatrpc.rpc")


def log_call(call: Call, error: BaseException | None) -> None:
    """Write the line of a call that has ended, by `error` if not well.

    Health checks come every few seconds, so theirs are of level debug.
    """
    code = call.context.code()
    if error is None:
        status = grpc.StatusCode.OK.name
    elif isinstance(error, Exception) and isinstance(code, grpc.StatusCode):
        status = code.name
    else:
        # The client is gone or its deadline has passed: the task was cancelled, or the generator closed.
        status = grpc.StatusCode.CANCELLED.name
    write = _log.debug if is_open(call.method) else _log.info
    write(
        "call",
        method=call.method,
        request_id=call.request_id,
        user_id=None if call.caller is None else str(call.caller.user_id),
        actor=None if call.caller is None else call.caller.actor,
        status=status,
        reason=call.reason,
        seconds=round(time.perf_counter() - call.began, 6),
    )
