"""Reflection lists and describes every service, in both versions, to callers with a token."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.rpc.stage import Stage, failure, signed_in, told

SERVICES = {
    "chatapi.v1.AccountService",
    "chatapi.v1.ChatService",
    "chatapi.v1.ConversationService",
    "chatapi.v1.KnowledgeService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


def reflect(stage: Stage, version: str, *requests: pb.ServerReflectionRequest):
    return stage.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )(iter(requests), metadata=signed_in())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_all_services_are_listed_and_described(stage: Stage, version: str) -> None:
    call = reflect(stage, version, pb.ServerReflectionRequest(list_services=""))
    [listed] = [response async for response in call]
    assert {service.name for service in listed.list_services_response.service} == SERVICES
    asked = [pb.ServerReflectionRequest(file_containing_symbol=service) for service in sorted(SERVICES)]
    for service, response in zip(
        sorted(SERVICES), [response async for response in reflect(stage, version, *asked)], strict=True
    ):
        files = [FileDescriptorProto.FromString(raw) for raw in response.file_descriptor_response.file_descriptor_proto]
        assert service in {f"{file.package}.{described.name}" for file in files for described in file.service}


async def test_a_request_that_cannot_be_read_is_an_invalid_argument(stage: Stage) -> None:
    call = stage.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
        iter([b"\x22\x02\xff\xfe"]), metadata=signed_in()
    )
    assert told(await failure(call)).reason == "INVALID_FIELD"
