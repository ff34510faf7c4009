"""Health as load balancers ask for it: without a token, by Check and by Watch."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.rpc.stage import PATIENCE, Stage, eventually, failure

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


async def check(stage: Stage, service: str) -> int:
    return (await HealthStub(stage.channel).Check(HealthCheckRequest(service=service))).status


def watch(stage: Stage, service: str = ""):
    return HealthStub(stage.channel).Watch(HealthCheckRequest(service=service))


async def status(watcher) -> int:
    return (await asyncio.wait_for(watcher.read(), PATIENCE)).status


@pytest.mark.parametrize(
    "service",
    [
        "",
        "chatapi.v1.ChatService",
        "chatapi.v1.ConversationService",
        "chatapi.v1.KnowledgeService",
        "chatapi.v1.AccountService",
    ],
)
async def test_every_service_tells_whether_it_serves(stage: Stage, service: str) -> None:
    assert await check(stage, service) == NOT_SERVING
    stage.health.set_serving(True)
    assert await check(stage, service) == SERVING
    stage.health.drain()
    assert await check(stage, service) == NOT_SERVING


async def test_an_unknown_service_is_not_found_by_check_and_unknown_to_watch(stage: Stage) -> None:
    error = await failure(HealthStub(stage.channel).Check(HealthCheckRequest(service="nothing")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    watcher = watch(stage, "nothing")
    assert await status(watcher) == HealthCheckResponse.SERVICE_UNKNOWN
    watcher.cancel()


async def test_draining_is_for_good(stage: Stage) -> None:
    stage.health.set_serving(True)
    stage.health.drain()
    stage.health.set_serving(True)
    assert await check(stage, "") == NOT_SERVING


async def test_watchers_hear_of_every_change_also_after_another_has_left(stage: Stage) -> None:
    staying, leaving = watch(stage), watch(stage)
    assert await status(staying) == NOT_SERVING
    assert await status(leaving) == NOT_SERVING
    stage.health.set_serving(True)
    assert await status(staying) == SERVING
    assert await status(leaving) == SERVING
    leaving.cancel()
    await eventually(lambda: len(stage.health._watchers) == 1)
    latecomer = watch(stage)
    assert await status(latecomer) == SERVING
    stage.health.drain()
    assert await status(staying) == NOT_SERVING
    assert await status(latecomer) == NOT_SERVING
    staying.cancel()
    latecomer.cancel()


async def test_a_status_that_does_not_change_is_told_once(stage: Stage) -> None:
    watcher = watch(stage)
    assert await status(watcher) == NOT_SERVING
    stage.health.set_serving(False)
    stage.health.set_serving(True)
    assert await status(watcher) == SERVING
    watcher.cancel()
