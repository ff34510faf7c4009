"""The commands of `chatrpc`."""

from __future__ import annotations

from chatrpc.cli.main import main

__all__ = ["main"]
