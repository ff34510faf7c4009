"""Events of a running reply as bytes, for other processes. Of the last one, its being there is told: all else is in
the database by then."""

from __future__ import annotations

import json
from collections.abc import Callable

from chatrpc.db.codec import report_from_json, report_to_json
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, Restarted

_CONTEXT, _DELTA, _RESTARTED, _LAST = b"c", b"d", b"r", b"l"

_DECODE: dict[bytes, Callable[[bytes], ContextBuilt | Delta | Restarted | None]] = {
    _CONTEXT: lambda data: ContextBuilt(report_from_json(json.loads(data))),
    _DELTA: lambda data: Delta(data.decode()),
    _RESTARTED: lambda data: Restarted(),
    _LAST: lambda data: None,
}


def encode(event: ContextBuilt | Delta | Completed | Failed | Restarted) -> bytes:
    match event:
        case Delta(text):
            return _DELTA + text.encode()
        case ContextBuilt(report):
            return _CONTEXT + report_to_json(report).encode()
        case Restarted():
            return _RESTARTED
        case Completed() | Failed():
            return _LAST


def decode(data: bytes) -> ContextBuilt | Delta | Restarted | None:
    """None stands for the last event."""
    return _DECODE[data[:1]](data[1:])
