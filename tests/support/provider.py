"""A language model provider on loopback: the OpenAI protocol over real HTTP, as well or as badly as a test asks.

    async with Provider() as provider:
        provider.script(Answer(deltas=("Hel", "lo")), Answer(fault=Fault.CUT))
        client = AsyncOpenAI(base_url=provider.base_url, api_key="key")
        ...
        request = await provider.received()      # the first request, once it is there
        await request.wait_closed()              # its connection is gone

Scripted answers are given in the order of the requests; where none is left, `provider.answer` is asked. By default
that echoes the last user message, and follows the summariser's instructions when the prompt is a summariser's.
`python -m tests.support.provider --port 9000 --rate 100` serves a benchmark from a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tests.support.answers import Answer, Fault, default_answer
from tests.support.embedder import word_vector

__all__ = ["Answer", "Fault", "Provider", "Request"]

PATIENCE = 20.0
"""Seconds after which a test that waits for the client has failed."""


@dataclass
class Request:
    """A request as it came in.

    Attributes:
        raw: The body's bytes as they came.
        closed: Set once its connection is gone, whoever ended it.
        sent: Deltas written so far.
        done: Whether the answer was written to its end.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    closed: asyncio.Event
    sent: int = 0
    done: bool = False
    raw: bytes = b""

    async def wait_closed(self) -> None:
        """Return once the connection is gone; TimeoutError if it stays."""
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()


class Provider:
    """The server; an async context manager. Port 0 takes a free port."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[dict[str, Any]], Answer] = default_answer
        self.dimension = 384
        # What an embedding is said to cost, where it is not the number of its texts.
        self.embedding_tokens: object = None
        self._scripted: deque[Answer] = deque()
        self._arrived = asyncio.Condition()
        self._connections: set[_Connection] = set()
        self._port = port
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def script(self, *answers: Answer) -> None:
        self._scripted.extend(answers)

    async def received(self, number: int = 1) -> Request:
        """The request of this number, counted from 1, once it has come in; TimeoutError if none comes."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.lost.wait() for connection in connections))
        await self._server.wait_closed()

    async def _handle(self, request: Request, connection: _Connection) -> None:
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        if request.path.endswith("/embeddings"):
            answer = _embeddings(request.body, self.dimension)
            if self.embedding_tokens is not None:
                answer["usage"] = {"prompt_tokens": self.embedding_tokens, "total_tokens": self.embedding_tokens}
            await connection.respond(200, answer)
            request.done = True
            return
        if not request.path.endswith("/chat/completions"):
            await connection.respond(404, {"error": {"message": f"no such path {request.path}"}})
            return
        answer = self._scripted.popleft() if self._scripted else self.answer(request.body)
        if answer.fault is Fault.HANG:
            await connection.lost.wait()
        elif answer.status != 200:
            await connection.respond(answer.status, {"error": answer.error}, answer.headers)
        else:
            await self._stream(answer, request, connection)

    async def _stream(self, answer: Answer, request: Request, connection: _Connection) -> None:
        model = request.body.get("model", "")
        wants_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        await connection.start_stream(answer.headers)
        await connection.send_event(_chunk(model, {"role": "assistant", "content": ""}))
        for chunk in answer.first_chunks:
            await connection.send_event(chunk)
        async for text in _paced(answer, request):
            await connection.send_event(_chunk(model, {"content": text}))
            request.sent += 1
        for piece in _call_pieces(answer.calls):
            await connection.send_event(_chunk(model, {"tool_calls": [piece]}))
        match answer.fault:
            case Fault.STALL:
                await connection.lost.wait()
            case Fault.CUT:
                connection.abort()
            case Fault.END_EARLY:
                await connection.end_stream()
            case Fault.MALFORMED_JSON:
                await connection.send_data(b'{"choices": [{"delta": {"con')
            case Fault.MALFORMED_SHAPE:
                await connection.send_event({"choices": "none of your business"})
            case Fault.ERROR_EVENT:
                await connection.send_event({"error": {"message": "the engine died, secret-key", "code": 500}})
            case _:
                if answer.finish_reason is not None:
                    reason = "tool_calls" if answer.calls else answer.finish_reason
                    await connection.send_event(_chunk(model, {}, reason))
                if answer.usage is not None and wants_usage:
                    await connection.send_event({**_chunk(model, {}), "choices": [], "usage": answer.usage})
                await connection.send_data(b"[DONE]")
                if answer.fault is Fault.LINGER:
                    await connection.lost.wait()
                await connection.end_stream()
                request.done = True


def _call_pieces(calls: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for index, (name, arguments) in enumerate(calls):
        yield {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        for start in range(0, len(arguments), 5):
            yield {"index": index, "function": {"arguments": arguments[start : start + 5]}}


async def _paced(answer: Answer, request: Request) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        for text in answer.deltas:
            if answer.gate is not None and request.sent >= answer.gate_at:
                await answer.gate.wait()
            if answer.rate is not None:
                await asyncio.sleep(start + request.sent / answer.rate - loop.time())
            yield text
        if answer.fault is not Fault.ENDLESS:
            return


class _Connection(asyncio.StreamReaderProtocol):
    """One HTTP/1.1 connection with keep-alive; knows at once when the peer goes."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(asyncio.StreamReader(), self._serve)
        self.lost = asyncio.Event()
        self._provider = provider
        self._task: asyncio.Task[None] | None = None

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # A client that has shut its side will not read on: close, rather than stay half open.

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._provider._connections.discard(self)
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._provider._connections.add(self)
        self._task = asyncio.current_task()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                request = await self._read(reader)
                await self._provider._handle(request, self)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(line.split(" ")[1], headers, json.loads(body) if body else {}, self.lost, raw=body)

    async def respond(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        await self._write(_head(status, fields) + data)

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        await self._write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **headers}))

    async def send_event(self, event: Mapping[str, Any]) -> None:
        await self.send_data(json.dumps(event).encode())

    async def send_data(self, data: bytes) -> None:
        frame = b"data: " + data + b"\n\n"
        await self._write(b"%x\r\n%s\r\n" % (len(frame), frame))

    async def end_stream(self) -> None:
        await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)  # An endless answer to a fast reader must leave the loop to others.


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunk(model: str, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def _embeddings(body: Mapping[str, Any], dimension: int) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = []
    for index, text in enumerate(texts):
        vector = word_vector(text, body.get("dimensions", dimension))
        value: Any = vector.tolist()
        if body.get("encoding_format") == "base64":
            value = base64.b64encode(vector.tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": body.get("model", ""), "usage": usage}


async def _serve_forever(port: int, rate: float | None, deltas: int) -> None:
    async with Provider(port) as provider:
        provider.answer = lambda _: Answer(deltas=("token ",) * deltas, rate=rate)
        print(provider.base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Answer every request alike, with so many deltas at such a rate, until interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=None, help="deltas a second; as fast as they are read if absent")
    parser.add_argument("--deltas", type=int, default=200, help="deltas of one answer")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_forever(options.port, options.rate, options.deltas))


if __name__ == "__main__":
    main()
