"""Ports for servers that are told theirs before they start, while other processes of tests start their own."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below those that Linux gives out by itself, so that none is given to another socket before its server listens; each
# process of a run has every n-th of them for itself.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(20_000 + _WORKER, 32_768, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
# Another run on this machine begins elsewhere.
_FIRST = random.SystemRandom().randrange(len(_PORTS))
_next = itertools.islice(itertools.cycle(_PORTS), _FIRST, None)


def free_port() -> int:
    """A port of loopback that nothing listens on, and another one at each call."""
    for port in itertools.islice(_next, len(_PORTS)):
        with socket.socket() as probe:
            # As servers do: connections that are still closing are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports of this process are in use")


def free_ports(count: int) -> list[int]:
    """Different ones."""
    return [free_port() for _ in range(count)]
