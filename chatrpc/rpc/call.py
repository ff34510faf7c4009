"""The call that is being served: what the interceptors find out, and the servicers ask for."""

from __future__ import annotations

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import structlog

from chatrpc.domain import Caller
from chatrpc.errors import Reason

REQUEST_ID_METADATA = "x-request-id"

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class Call:
    """One call or stream.

    Attributes:
        method: Such as `/chatapi.v1.ChatService/Chat`.
        request_id: The client's own or Envoy's where it is sane, else a new one.
        caller: None before the token is verified, and for open methods.
        reason: Why the call failed, once it has.
        began: By `time.perf_counter`.
    """

    method: str
    context: grpc.aio.ServicerContext[Any, Any]
    request_id: str
    caller: Caller | None = None
    reason: Reason | None = None
    began: float = field(default_factory=time.perf_counter)


_current: ContextVar[Call] = ContextVar("chatrpc_call")


def begin_call(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
    """The call as it comes in; from here on it is the current one of its task and of all tasks begun from it."""
    sent = metadata_values(context, REQUEST_ID_METADATA)
    sane = len(sent) == 1 and _SANE_REQUEST_ID.fullmatch(sent[0])
    call = Call(method, context, sent[0] if sane else str(uuid4()))
    structlog.contextvars.bind_contextvars(request_id=call.request_id)
    # Never reset: grpc.aio runs each call in a task with a context of its own, which ends with the call.
    _current.set(call)
    return call


def current_call() -> Call:
    return _current.get()


def current_caller() -> Caller:
    """Who calls. Only methods that need a token may ask."""
    caller = _current.get().caller
    if caller is None:
        raise LookupError("no caller: the method is open, or its token is not verified yet")
    return caller


def metadata_values(context: grpc.aio.ServicerContext[Any, Any], name: str) -> list[str]:
    """All values that the client sent under a name."""
    return [value for key, value in context.invocation_metadata() or () if key == name and isinstance(value, str)]
