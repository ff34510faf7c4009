"""The process that reads one document: bytes come in, chunks go out, a JSON array a line.

    python -I -m chatrpc.knowledge.parse_worker '{"media_type": …}' < document

What it reads may be hostile, so before it reads a byte it gives up all that reading does not need: memory and time
beyond a limit, files to write, processes to start, connections to open. What it still does wrong dies with it. The
first line holds title, characters, pages and number of chunks, or the reason for which there are none.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from chatrpc.errors import Reason
from chatrpc.knowledge.chunk import chunks_of
from chatrpc.knowledge.parse import parse
from chatrpc.knowledge.text import ParseError

# Audit events of what a parser has no business with.
_REFUSED = ("socket.", "subprocess.", "ctypes.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system")
_REFUSED_WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.")


@dataclass(frozen=True, slots=True)
class ParseJob:
    """What the process is told.

    Attributes:
        max_tokens: What the embedding model reads.
        max_characters: Of the document's text.
        memory: Bytes of address space beyond what the process has before it reads.
        cpu_seconds: After which the kernel ends it.
    """

    media_type: str
    max_tokens: int
    max_characters: int
    memory: int
    cpu_seconds: int

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, argument: str) -> ParseJob:
        return cls(**json.loads(argument))


def main() -> None:
    job = ParseJob.decode(sys.argv[1])
    _confine(job)
    try:
        data = sys.stdin.buffer.read()
        parsed = parse(data, job.media_type, job.max_characters)
        del data
        chunks = list(chunks_of(parsed, job.max_tokens))
        lines: list[list[object]] = [[parsed.title, len(parsed.text), len(parsed.page_starts), len(chunks)]]
        lines += ([chunk.start, chunk.end, chunk.page, chunk.headings, chunk.text] for chunk in chunks)
    except ParseError as error:
        lines = [[error.reason]]
    except (MemoryError, RecursionError):
        lines = [[Reason.DOCUMENT_TOO_COSTLY]]
    except Exception:  # noqa: BLE001 - a broken document breaks the libraries in many ways.
        lines = [[Reason.DOCUMENT_BROKEN]]
    _write(lines)


def _confine(job: ParseJob) -> None:
    limits = {
        resource.RLIMIT_CPU: job.cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    memory = _address_space()
    if memory is not None:
        limits[resource.RLIMIT_AS] = memory + job.memory
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    sys.addaudithook(_refuse)


def _address_space() -> int | None:
    """Bytes that the process has mapped; None where the system does not say, and cannot limit it either."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    # Modules are still loaded as they are needed, so reading files is not refused.
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith((*_REFUSED, *_REFUSED_WRITES)):
        raise PermissionError(event)


def _write(lines: Iterable[list[object]]) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main()
