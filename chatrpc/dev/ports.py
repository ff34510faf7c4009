"""TCP ports of this machine."""

from __future__ import annotations

import errno
import socket

from chatrpc.errors import SettingsError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on just now. Use it soon: nothing reserves it."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free_port(host: str, port: int, option: str) -> None:
    """Check that a port can be listened on, so that a start fails at once and not in the middle.

    Args:
        option: The option or variable that chooses the port, for the sentence.

    Raises:
        SettingsError: It is in use, or not ours to take.
    """
    with socket.socket() as probe:
        # As servers do: connections of an earlier start that are still closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
            raise SettingsError(f"Port {port} {why}; choose another with {option}.") from None
