"""Ports of this machine."""

from __future__ import annotations

import socket

import pytest

from chatrpc.dev.ports import free_port, require_free_port
from chatrpc.errors import SettingsError


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    require_free_port("127.0.0.1", port, "--port")
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_in_use_is_named_with_the_option(host: str, reuse_port: bool) -> None:
    with socket.create_server((host, 0), reuse_port=reuse_port) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^Port {port} is in use; choose another with --port\.$"):
            require_free_port("127.0.0.1", port, "--port")


def test_connections_still_closing_are_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            # Who closes first keeps the port in TIME_WAIT.
            accepted.close()
    require_free_port("127.0.0.1", port, "--port")


def test_an_address_of_another_machine_is_told_apart() -> None:
    with pytest.raises(SettingsError, match="cannot be listened on"):
        require_free_port("192.0.2.1", 8080, "--port")
