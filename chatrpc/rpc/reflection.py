"""Server reflection, in both versions that clients ask for.

grpcio-reflection serves v1alpha alone. v1 has the same messages under another package, so the same servicer answers
both; v1's own descriptors are made of v1alpha's, for clients that describe every service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from chatrpc.rpc.validation import checked

_V1ALPHA = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
_V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Lets clients list and describe the services, and reflection itself."""
    _describe_v1()
    servicer = aio.ReflectionServicer((*services, _V1ALPHA, _V1))

    async def answer(requests: AsyncIterable[Any], context: Any) -> AsyncGenerator[Any, None]:
        readable = (checked(request) async for request in requests)
        # The stub calls a coroutine what is an async generator.
        async for response in servicer.ServerReflectionInfo(readable, context):  # type: ignore[attr-defined]
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, methods) for service in (_V1ALPHA, _V1))
    )


def _describe_v1() -> None:
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    Default().AddSerializedFile(text_format.Parse(text, FileDescriptorProto()).SerializeToString())
