"""Wraps every handler of the server in what all calls have in common.

One interceptor, so that each event of a stream passes one generator and not five. The order, from the outside: log,
errors, request id, identity, validation. An async generator is wrapped around its iteration, since that is where its
exceptions are raised.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc

from chatrpc.rpc.authentication import authenticate
from chatrpc.rpc.call import REQUEST_ID_METADATA, Call, begin_call
from chatrpc.rpc.call_log import log_call
from chatrpc.rpc.failure import abort
from chatrpc.rpc.identity import TokenVerifier
from chatrpc.rpc.refusal import NEW_TURNS, refusals
from chatrpc.rpc.validation import checked, deserializer
from chatrpc.turns.admission import Admission

_Context = grpc.aio.ServicerContext[Any, Any]
# Generic for type checkers alone, hence the quotes.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

# By (request is a stream, response is a stream): the attribute that holds the behaviour, and what makes a handler.
_SHAPES: dict[tuple[bool, bool], tuple[str, Callable[..., _Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Args:
    max_message_bytes: Larger requests are refused.
    admission: Whether there is room for new turns.
    """

    def __init__(self, verifier: TokenVerifier, max_message_bytes: int, admission: Admission) -> None:
        self._verifier = verifier
        self._max_message_bytes = max_message_bytes
        self._admission = admission
        self._refusals = refusals()
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        method = handler_call_details.method
        if method in NEW_TURNS and self._admission.refuses():
            return next(self._refusals)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        # Ten thousand open streams of a method share one wrapper. A method changes its handler once, when the server
        # has become ready.
        wrapped = self._wrapped.get(method)
        if wrapped is None or wrapped[0] is not handler:
            wrapped = self._wrapped[method] = handler, self._wrap(method, handler)
        return wrapped[1]

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        attribute, make = _SHAPES[handler.request_streaming, handler.response_streaming]
        behaviour = getattr(handler, attribute)
        # A servicer of a request stream checks each request itself, since only it knows what a bad one ends.
        check: Callable[[Any], Any] = (lambda requests: requests) if handler.request_streaming else checked

        if inspect.isasyncgenfunction(behaviour):

            async def run_stream(request: Any, context: _Context) -> AsyncGenerator[Any, None]:
                async with _Run(begin_call(method, context)) as run:
                    await run.prepare(self._verifier)
                    async with aclosing(behaviour(check(request), context)) as responses:
                        async for response in responses:
                            yield response

            run: Callable[[Any, _Context], Any] = run_stream
        else:

            async def run_single(request: Any, context: _Context) -> Any:
                async with _Run(begin_call(method, context)) as run:
                    await run.prepare(self._verifier)
                    return await behaviour(check(request), context)

            run = run_single
        assert handler.request_deserializer is not None  # All services of ours speak protobuf.
        return make(
            run,
            request_deserializer=deserializer(handler.request_deserializer, self._max_message_bytes),
            response_serializer=handler.response_serializer,
        )


class _Run:
    """From the first look at a call to its log line. A class and no generator, which would cost each stream more."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    async def prepare(self, verifier: TokenVerifier) -> None:
        metadata = ((REQUEST_ID_METADATA, self._call.request_id),)
        await self._call.context.send_initial_metadata(metadata)
        await authenticate(self._call, verifier)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
                await abort(self._call, error)
        finally:
            log_call(self._call, error)
