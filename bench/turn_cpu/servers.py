"""The two servers that are compared: `python -m bench.turn_cpu.servers chatrpc|bare TOKENS RATE [TARGET_DELAY_MS]`."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.chat_service_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server
from numpy.typing import NDArray

from bench.child import Answers, cpu_seconds, obey, tell_cpu
from bench.turn_cpu.pace import paced
from chatrpc.cli.runtime import configure_logs, run
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import open_database
from chatrpc.db.migrate import upgrade
from chatrpc.db.processes import Processes
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript
from chatrpc.db.usage import UsageLedger
from chatrpc.db.vectors import VectorStore
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.postgres import run_postgres
from chatrpc.domain import FinishReason, Usage
from chatrpc.memory import Memory, MemorySettings
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import EmbeddingSpace, ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.grpc_server import add_services, bind, new_grpc_server
from chatrpc.rpc.health import Health
from chatrpc.rpc.identity import TokenVerifier
from chatrpc.rpc.jwks import KeySet
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    LogSettings,
    ModelSettings,
    ServerSettings,
)
from chatrpc.turns.admission import Admission
from chatrpc.turns.coalescer import Coalescer
from chatrpc.turns.generation import TurnParts
from chatrpc.turns.lease import process_lease
from chatrpc.turns.reply_logs import LocalReplyLogs
from chatrpc.turns.service import Turns
from chatrpc.turns.stored import StoredReplies

# A message with these words is answered at once, to give a conversation its past.
HURRY = "Hurry."


class ScriptedModel:
    """Implements `chatrpc.ports.ChatModel` inside the process."""

    def __init__(self, tokens: int, rate: float) -> None:
        self._tokens = tokens
        self._rate = rate

    def model_name(self, requested: str | None) -> str:
        return "scripted"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        rate = 0.0 if request.prompt[-1].content == HURRY else self._rate
        async for text in paced(self._tokens, rate):
            yield TextDelta(text)
        yield ModelFinished(FinishReason.STOP, "scripted", Usage(1_000, 0, self._tokens))

    async def aclose(self) -> None:
        return None


class ConstantEmbedder:
    """Implements `chatrpc.ports.Embedder` at no cost."""

    space = EmbeddingSpace(name="constant", fingerprint="constant", dimension=384, floor=0.3, max_tokens=256)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.full((len(texts), 384), 384**-0.5, np.float32)

    async def aclose(self) -> None:
        return None


class BareServicer(ChatServiceServicer):
    """One message for each token, or for each window, and nothing else. A request that names a window gets it."""

    def __init__(self, tokens: int, rate: float) -> None:
        self._tokens = tokens
        self._rate = rate

    async def Chat(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.ChatRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[pb.ChatResponse, None]:
        async for request in request_iterator:
            reply_id, sequence = request.send.client_message_id, 0
            window = request.send.coalesce_window.ToMilliseconds() / 1_000
            async with aclosing(self._texts(window)) as texts:
                async for text in texts:
                    sequence += 1
                    reply = pb.ReplyEvent(
                        reply_id=reply_id, attempt=1, sequence=sequence, delta=pb.TextDelta(text=text)
                    )
                    yield pb.ChatResponse(reply=reply)
            yield pb.ChatResponse(reply=pb.ReplyEvent(reply_id=reply_id, attempt=1, completed=pb.ReplyCompleted()))

    def _texts(self, window: float) -> AsyncGenerator[str, None]:
        tokens = paced(self._tokens, self._rate)
        return coalesced(tokens, window) if window else tokens


async def coalesced(tokens: AsyncGenerator[str, None], window: float) -> AsyncGenerator[str, None]:
    """The least that coalescing takes: a task that reads, the window's timer, and a queue."""
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    coalescer = Coalescer(window, pieces.put_nowait)

    async def read() -> None:
        async for token in tokens:
            coalescer.push(token)
        coalescer.flush()
        pieces.put_nowait(None)

    reading = asyncio.create_task(read())
    while (text := await pieces.get()) is not None:
        yield text
    await reading


async def serve_bare(tokens: int, rate: float) -> None:
    """Answers `pace STREAMS SPREAD` with the CPU time that the generators alone take."""

    async def run_out(spread: float) -> None:
        await asyncio.sleep(random.uniform(0, spread))
        async for _ in paced(tokens, rate):
            pass

    async def answer(line: str) -> dict[str, Any]:
        if not line.startswith("pace"):
            return await tell_cpu(line)
        _, streams, spread = line.split()
        before = cpu_seconds()
        await asyncio.gather(*(run_out(float(spread)) for _ in range(int(streams))))
        return {"cpu": cpu_seconds() - before}

    server = grpc.aio.server()
    # The stubs call the base abstract; it answers what is left out with UNIMPLEMENTED.
    add_ChatServiceServicer_to_server(BareServicer(tokens, rate), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await obey({"target": f"127.0.0.1:{port}", "token": ""}, answer)
    await server.stop(None)


async def serve_chatrpc(tokens: int, rate: float, target_delay_ms: int = 0) -> None:
    """The parts as `chatrpc.server` puts them together, with another model, another embedder, and no worker."""
    with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch:
        issuer = LocalIssuer.create(Path(scratch, "issuer"))
        async with run_postgres(Path(scratch, "postgres")) as postgres:
            await asyncio.to_thread(upgrade, postgres.url)
            await _serve(postgres.url, issuer, ScriptedModel(tokens, rate), target_delay_ms, tell_cpu)


async def _serve(
    database_url: str, issuer: LocalIssuer, model: ScriptedModel, target_delay_ms: int, answer: Answers
) -> None:
    database_settings = DatabaseSettings(url=database_url)
    settings = MemorySettings(
        database_settings, ModelSettings(), EmbedderSettings(), ContextSettings(), KnowledgeSettings()
    )
    auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file))
    server_settings = ServerSettings(host="127.0.0.1", port=0, target_delay_ms=target_delay_ms)
    async with (
        open_database(database_settings) as database,
        process_lease(Processes(database)) as lease,
        KeySet(auth) as keys,
    ):
        embedder = ConstantEmbedder()
        space_id = await VectorStore(database).register_space(embedder.space)
        memory = Memory(database, embedder, model, space_id, load_profiles(settings.model), embedder, embedder)
        assembler = memory.assembler(settings, auth)
        reports = Reports(database)
        admission = Admission(target_delay_ms / 1_000, database_settings.pool_size)
        parts = TurnParts(
            transcript=Transcript(database),
            assembler=assembler,
            model=model,
            coalesce_window=server_settings.coalesce_ms / 1_000,
            on_finished=lambda: None,
            admission=admission,
        )
        server = new_grpc_server(server_settings, TokenVerifier(auth, keys), Health(), admission)
        turns = Turns(parts, StoredReplies(parts.transcript, reports), lease, LocalReplyLogs())
        library = memory.library(auth, settings.knowledge, lambda: None)
        search = memory.document_search(auth)
        conversations = Conversations(database)
        add_services(
            server,
            server_settings,
            turns,
            conversations,
            reports,
            assembler,
            library,
            search,
            UsageLedger(database),
            Drain(),
        )
        port = bind(server, server_settings)
        await server.start()
        await obey({"target": f"127.0.0.1:{port}", "token": issuer.mint("alice")}, answer)
        await server.stop(None)


def main() -> None:
    configure_logs(LogSettings(level="warning"))
    kind, tokens, rate, *target_delay_ms = sys.argv[1:]
    if kind == "bare":
        uvloop.run(serve_bare(int(tokens), float(rate)))
    else:
        run(serve_chatrpc(int(tokens), float(rate), *map(int, target_delay_ms)))


if __name__ == "__main__":
    main()
