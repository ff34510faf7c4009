"""Wraps every handler of the server in what all calls have in common.

One interceptor, so that each event of a stream passes one generator and not five. The order, from the outside: log,
errors, request id, identity, validation. An async generator is wrapped around its iteration, since that is where its
exceptions are raised.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc

from chatrpc.rpc.authentication import authenticate
from chatrpc.rpc.call import REQUEST_ID_METADATA, begin_call
from chatrpc.rpc.call_log import logged
from chatrpc.rpc.failure import errors_as_status
from chatrpc.rpc.identity import TokenVerifier
from chatrpc.rpc.validation import checked, deserializer

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
    """Args: max_message_bytes: Larger requests are refused."""

    def __init__(self, verifier: TokenVerifier, max_message_bytes: int) -> None:
        self._verifier = verifier
        self._max_message_bytes = max_message_bytes

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        assert handler.request_deserializer is not None  # All services of ours speak protobuf.
        attribute, make = _SHAPES[handler.request_streaming, handler.response_streaming]
        behaviour = self._wrapped(getattr(handler, attribute), handler_call_details.method, handler.request_streaming)
        return make(
            behaviour,
            request_deserializer=deserializer(handler.request_deserializer, self._max_message_bytes),
            response_serializer=handler.response_serializer,
        )

    def _wrapped(
        self, behaviour: Callable[[Any, _Context], Any], method: str, request_streaming: bool
    ) -> Callable[[Any, _Context], Any]:
        # A servicer of a request stream checks each request itself, since only it knows what a bad one ends.
        check: Callable[[Any], Any] = (lambda requests: requests) if request_streaming else checked

        @asynccontextmanager
        async def served(context: _Context) -> AsyncGenerator[None, None]:
            call = begin_call(method, context)
            async with logged(call), errors_as_status(call):
                await context.send_initial_metadata(((REQUEST_ID_METADATA, call.request_id),))
                await authenticate(call, self._verifier)
                yield

        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: _Context) -> AsyncGenerator[Any, None]:
                async with served(context), aclosing(behaviour(check(request), context)) as responses:
                    async for response in responses:
                        yield response

            return stream

        async def single(request: Any, context: _Context) -> Any:
            async with served(context):
                return await behaviour(check(request), context)

        return single
