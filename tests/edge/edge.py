"""Envoy as these tests start it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress
from envoy_data_plane.envoy.config.endpoint.v3 import Endpoint, LbEndpoint

from chatrpc.edge import EnvoyProcess, run_envoy
from chatrpc.edge.bootstrap import build_bootstrap, render
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings
from tests.edge.upstream import Upstream
from tests.support.ports import free_ports


def edge_settings(upstream_port: int, **changes: object) -> EdgeSettings:
    """Loopback, with free ports of its own."""
    port, admin_port = free_ports(2)
    values = {"host": "127.0.0.1", "port": port, "admin_port": admin_port, "upstream_port": upstream_port} | changes
    return EdgeSettings.model_validate(values)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; Envoy tells of no change by itself."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge and two ways in."""

    port: int
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    envoy: EnvoyProcess

    async def call(
        self, method: str, request: bytes = b"hello", token: str | None = None, *metadata: tuple[str, str]
    ) -> bytes:
        """A unary call with a token."""
        bearer = (("authorization", f"Bearer {token}"),) if token is not None else ()
        answer: bytes = await self.channel.unary_unary(method)(request, metadata=(*bearer, *metadata), timeout=20)
        return answer

    async def refusal(self, method: str, token: str | None = None, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
        """The error of a unary call that must fail."""
        try:
            await self.call(method, b"hello", token, *metadata)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{method} was admitted")

    async def figure(self, name: str) -> int:
        """One of Envoy's own counters or gauges."""
        answer = await self.http.get(f"http://{self.envoy.admin_address}/stats", params={"filter": f"^{name}$"})
        return int(answer.text.rsplit(":", 1)[1])


@asynccontextmanager
async def open_edge(settings: EdgeSettings, text: str, log_path: Path | None = None) -> AsyncIterator[Edge]:
    """Start Envoy with a configuration, and clients of it."""
    async with (
        run_envoy(text, log_path=log_path) as envoy,
        grpc.aio.insecure_channel(f"127.0.0.1:{settings.port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}", trust_env=False, timeout=20) as http,
    ):
        yield Edge(settings.port, channel, http, envoy)


@asynccontextmanager
async def edge_before_two(first: Upstream, second: Upstream, auth: AuthSettings) -> AsyncIterator[Edge]:
    """An edge before two upstreams. Loopback has one name, so the second is added to what the name resolves to."""
    settings = edge_settings(first.port)
    bootstrap = build_bootstrap(settings, auth, ServerSettings())
    assert bootstrap.static_resources is not None
    assignment = bootstrap.static_resources.clusters[0].load_assignment
    assert assignment is not None
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=second.port))
    assignment.endpoints[0].lb_endpoints.append(LbEndpoint(endpoint=Endpoint(address=address)))
    async with open_edge(settings, render(bootstrap)) as edge:
        yield edge


@asynccontextmanager
async def edge_before(
    upstream_port: int,
    auth: AuthSettings,
    *,
    log_path: Path | None = None,
    ca_file: str | None = None,
    **changes: object,
) -> AsyncIterator[Edge]:
    """An edge before an upstream, with settings changed."""
    settings = edge_settings(upstream_port, **changes)
    extra = {} if ca_file is None else {"ca_file": ca_file}
    text = render(build_bootstrap(settings, auth, ServerSettings(), **extra))
    async with open_edge(settings, text, log_path) as edge:
        yield edge
