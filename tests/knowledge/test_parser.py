"""The process that reads documents: hostile ones end it and nothing else, and what it says is not believed blindly."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable

import psutil
import pytest

from chatrpc.domain import Chunk
from chatrpc.errors import Reason, Unavailable
from chatrpc.knowledge import parser as parser_module
from chatrpc.knowledge.parser import Parsed, Parser
from chatrpc.knowledge.text import ParseError
from chatrpc.settings import KnowledgeSettings
from tests.support import pdf

MEGABYTE = 1024 * 1024
TIGHT = KnowledgeSettings(parse_seconds=2, parse_memory=96 * MEGABYTE)
ROOMY = KnowledgeSettings()


async def cut(data: bytes) -> AsyncGenerator[bytes, None]:
    for begin in range(0, len(data), MEGABYTE):
        yield data[begin : begin + MEGABYTE]


async def parsed(data: bytes, media_type: str, settings: KnowledgeSettings = ROOMY) -> tuple[Parsed, list[Chunk]]:
    async with Parser(settings, 510).parse(media_type, cut(data)) as found:
        return found, [chunk async for chunk in found.read_chunks()]


async def refused(data: bytes, media_type: str, settings: KnowledgeSettings = TIGHT) -> Reason:
    with pytest.raises(ParseError) as raised:
        await parsed(data, media_type, settings)
    return raised.value.reason


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncGenerator[None, None]:
    before = {child.pid for child in children()}
    yield
    assert {child.pid for child in children()} <= before


async def test_a_document_is_parsed_in_another_process() -> None:
    found, chunks = await parsed(b"# Guide\n\ntext\n\n## Part\n\nmore", "text/markdown")
    assert (found.title, found.characters, found.pages, found.chunks) == ("Guide", 28, 0, 2)
    assert [(chunk.number, chunk.headings, chunk.text) for chunk in chunks] == [
        (0, ("Guide",), "# Guide\n\ntext\n\n"),
        (1, ("Guide", "Part"), "## Part\n\nmore"),
    ]


async def test_text_of_any_script_comes_through_unharmed() -> None:
    text = "Grüße 你好 \U0001f600 \u2028 \x85 end"
    _, chunks = await parsed(text.encode(), "text/plain")
    assert "".join(chunk.text for chunk in chunks) == text


HOSTILE: dict[str, tuple[Callable[[], bytes], str, Reason]] = {
    "a stream that unpacks to gigabytes": (
        lambda: pdf.bomb(megabytes=400), "application/pdf", Reason.DOCUMENT_TOO_COSTLY
    ),
    "a stream that unpacks to more than is allowed": (
        lambda: pdf.bomb(megabytes=70), "application/pdf", Reason.DOCUMENT_TOO_COSTLY
    ),
    "a tree of pages with a loop": (pdf.endless_pages, "application/pdf", Reason.DOCUMENT_BROKEN),
    "arrays in arrays": (lambda: pdf.deeply_nested(200_000), "application/pdf", Reason.DOCUMENT_BROKEN),
    "half a file": (lambda: pdf.pdf_of(["Hello"] * 20)[:700], "application/pdf", Reason.DOCUMENT_BROKEN),
    "noise": (lambda: bytes(range(256)) * 4_000, "application/pdf", Reason.DOCUMENT_BROKEN),
    "elements in elements": (lambda: b"<b>" * 3_000_000, "text/html", Reason.DOCUMENT_TOO_COSTLY),
    "an endless table": (
        lambda: b"<table>" + b"<tr><td>x" * 2_000_000, "text/html", Reason.DOCUMENT_TOO_COSTLY
    ),
    "references without end": (lambda: b"[a]: b\n" * 2_000_000, "text/markdown", Reason.DOCUMENT_TOO_COSTLY),
    "millions of blocks": (lambda: b"# a\n" * 4_000_000, "text/markdown", Reason.DOCUMENT_TOO_COSTLY),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_document_ends_its_process_and_says_why(name: str) -> None:
    make, media_type, reason = HOSTILE[name]
    assert await refused(make(), media_type) is reason


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"> " * 500_000 + b"x", "text/markdown"),
        (b"- " * 500_000 + b"x", "text/markdown"),
        (b"[" * 1_000_000, "text/markdown"),
        (b"a" * 5_000_000, "text/plain"),
        (b"a\n" * 2_000_000, "text/plain"),
        (b"<p>" * 10_000 + b"x", "text/html"),
        (pdf.endless_outline(), "application/pdf"),
    ],
    ids=["quotes in quotes", "lists in lists", "brackets", "one word", "one line a letter", "paragraphs", "outline"],
)
async def test_a_strange_document_is_read_all_the_same(data: bytes, media_type: str) -> None:
    found, chunks = await parsed(data, media_type)
    assert sum(len(chunk.text) for chunk in chunks) == found.characters > 0


async def test_a_process_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    speaks(monkeypatch, "import time; time.sleep(1_000)")
    monkeypatch.setattr(parser_module, "_PATIENCE", 0.05)
    assert await refused(b"x", "text/plain") is Reason.DOCUMENT_TOO_COSTLY


@pytest.mark.parametrize(
    "said",
    [
        "print('no JSON')",
        "print('[\"NO_SUCH_REASON\"]')",
        "print('[1, 2]')",
        "print('{}')",
        # One chunk that is not where it says, then one that is not as long.
        "print('[\"\", 2, 0, 1]'); print('[1, 2, 0, [], \"x\"]')",
        "print('[\"\", 2, 0, 1]'); print('[0, 2, 0, [], \"x\"]')",
        "print('[\"\", 2, 0, 1]'); print('[0, 1]')",
        "print('[\"' + 'x' * 10_000_000)",
    ],
)
async def test_a_process_that_talks_nonsense_is_not_believed(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    speaks(monkeypatch, said)
    assert await refused(b"x", "text/plain") is Reason.DOCUMENT_BROKEN


async def test_a_process_that_dies_between_chunks_is_no_whole_document(monkeypatch: pytest.MonkeyPatch) -> None:
    speaks(monkeypatch, "print('[\"\", 2, 0, 2]'); print('[0, 1, 0, [], \"x\"]')")
    assert await refused(b"x", "text/plain") is Reason.DOCUMENT_TOO_COSTLY


async def test_it_knows_nothing_of_the_servers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATRPC_MODEL_API_KEY", "secret")
    speaks(monkeypatch, "import json, os; print(json.dumps([str(os.environ), 0, 0, 0]))")
    found, _ = await parsed(b"x", "text/plain")
    assert "secret" not in found.title


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "open('/tmp/left-behind', 'w')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import os; os.remove('/tmp/left-behind')",
        "import ctypes; ctypes.CDLL('libc.so.6')",
    ],
)
async def test_it_gives_up_what_reading_does_not_need(monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    speaks(
        monkeypatch,
        "import sys; from chatrpc.knowledge import parse_worker as worker\n"
        "worker._confine(worker.ParseJob.decode(sys.argv[1]))\n"
        f"try:\n    {deed}\n"
        "except PermissionError:\n    print('[\"refused\", 0, 0, 0]')\n",
    )
    found, _ = await parsed(b"x", "text/plain")
    assert found.title == "refused"


async def test_a_document_whose_bytes_cannot_be_had_is_not_broken() -> None:
    async def lost() -> AsyncGenerator[bytes, None]:
        yield b"%PDF-1.7"
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, "Away.")

    with pytest.raises(Unavailable):
        async with Parser(ROOMY, 510).parse("application/pdf", lost()):
            pass


def speaks(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Another program takes the worker's place."""
    monkeypatch.setattr(parser_module, "_COMMAND", (sys.executable, "-I", "-c", code))
