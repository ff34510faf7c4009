"""One log line a call: who called what and how it ended; never a text or a token."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import structlog

from chatrpc.rpc.authentication import is_open
from chatrpc.rpc.call import Call

_log = structlog.get_logger("chatrpc.rpc")


@asynccontextmanager
async def logged(call: Call) -> AsyncGenerator[None, None]:
    """Writes the line when the call ends. Health checks come every few seconds, so theirs are of level debug."""
    structlog.contextvars.bind_contextvars(request_id=call.request_id)
    began = time.perf_counter()
    status = grpc.StatusCode.OK.name
    try:
        yield
    except grpc.aio.AbortError:
        status = call.context.code().name
        raise
    except BaseException:
        # The client is gone or its deadline has passed: the task is cancelled, or the generator closed.
        status = grpc.StatusCode.CANCELLED.name
        raise
    finally:
        write = _log.debug if is_open(call.method) else _log.info
        write(
            "call",
            method=call.method,
            request_id=call.request_id,
            user_id=None if call.caller is None else str(call.caller.user_id),
            actor=None if call.caller is None else call.caller.actor,
            status=status,
            reason=call.reason,
            seconds=round(time.perf_counter() - began, 6),
        )
