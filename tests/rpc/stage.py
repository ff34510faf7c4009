"""A whole server on a free port, with everything behind it real but the language model and the embedder, whose words
and vectors a test decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from chatapi.v1.account_service_pb2_grpc import AccountServiceStub
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub
from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceStub
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from chatrpc.context.assembler import ContextAssembler
from chatrpc.db.chunks import Chunks, DocumentTasks
from chatrpc.db.collections import Collections
from chatrpc.db.conversations import Conversations
from chatrpc.db.documents import Documents
from chatrpc.db.engine import Database
from chatrpc.db.processes import Processes
from chatrpc.db.recall import Recall
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript
from chatrpc.db.usage import UsageLedger
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import FinishReason, Usage
from chatrpc.knowledge.ingest import IngestWorker
from chatrpc.knowledge.library import Library
from chatrpc.knowledge.parser import Parser
from chatrpc.knowledge.search import DocumentSearch
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.rpc.drain import Drain
from chatrpc.rpc.grpc_server import add_services, bind, new_grpc_server
from chatrpc.rpc.health import Health
from chatrpc.rpc.identity import TokenVerifier, shared_id_of
from chatrpc.rpc.jwks import KeySet
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    KnowledgeSettings,
    ModelSettings,
    QuotaSettings,
    ServerSettings,
)
from chatrpc.turns.admission import Admission
from chatrpc.turns.generation import TurnParts
from chatrpc.turns.lease import process_lease
from chatrpc.turns.reply_logs import LocalReplyLogs
from chatrpc.turns.service import Turns
from chatrpc.turns.stored import StoredReplies
from chatrpc.turns.takeover import Takeover
from tests.rpc.signer import AUDIENCE, ISSUER, key_set, signer
from tests.support.embedder import WordEmbedder

# Seconds after which a test that waits has failed.
PATIENCE = 20.0

Metadata = tuple[tuple[str, str], ...]


def signed_in(**claims: object) -> Metadata:
    """Metadata of a caller, `alice` unless told otherwise."""
    return (("authorization", f"Bearer {signer('main').sign(**claims)}"),)


class Clock:
    """A clock that a test can put forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Speaker:
    """One request to the language model, answered word by word as a test likes."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self._said: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def say(self, *texts: str) -> None:
        for text in texts:
            self._said.put_nowait(text)

    def finish(self) -> None:
        self._said.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        self._said.put_nowait(error)

    async def heard(self) -> AsyncGenerator[ModelEvent, None]:
        while (said := await self._said.get()) is not None:
            if isinstance(said, BaseException):
                raise said
            yield TextDelta(said)
        yield ModelFinished(FinishReason.STOP, "staged", Usage(10, 0, 5))


class StagedModel:
    """Implements `chatrpc.ports.ChatModel`; each request waits for the test."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[Speaker] = asyncio.Queue()

    def model_name(self, requested: str | None) -> str:
        return requested or "staged"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        speaker = Speaker(request)
        self._asked.put_nowait(speaker)
        async for event in speaker.heard():
            yield event

    async def asked(self) -> Speaker:
        """The next request, once it is there."""
        return await asyncio.wait_for(self._asked.get(), PATIENCE)

    async def aclose(self) -> None:
        return None


@dataclass
class Stage:
    """A server and a client of it."""

    port: int
    server: grpc.aio.Server
    channel: grpc.aio.Channel
    model: StagedModel
    turns: Turns
    takeover: Takeover
    ingest: IngestWorker
    drain: Drain
    health: Health
    settings: ServerSettings
    clock: Clock

    @property
    def chat(self) -> ChatServiceStub:
        return ChatServiceStub(self.channel)

    @property
    def conversations(self) -> ConversationServiceStub:
        return ConversationServiceStub(self.channel)

    @property
    def knowledge(self) -> KnowledgeServiceStub:
        return KnowledgeServiceStub(self.channel)

    @property
    def account(self) -> AccountServiceStub:
        return AccountServiceStub(self.channel)

    async def conversation(self, metadata: Metadata | None = None) -> str:
        """The id of a new conversation."""
        created = await self.conversations.CreateConversation(
            conversation_pb.CreateConversationRequest(), metadata=metadata or signed_in()
        )
        return created.conversation.id


@asynccontextmanager
async def staged(
    database: Database,
    key_file: Path,
    turns: Callable[[Turns], Turns] = lambda turns: turns,
    issuer: str = ISSUER,
    channel_options: Sequence[tuple[str, int]] = (),
    admission: Admission | None = None,
    **settings: object,
) -> AsyncIterator[Stage]:
    """Args: turns: Wraps the real ones, to let them fail where reality does so rarely."""
    model, embedder = StagedModel(), WordEmbedder()
    space_id = await VectorStore(database).register_space(embedder.space)
    # Room for a reply of many megabytes.
    limits = ModelSettings(context_window=2_000_000, output_reserve=900_000)
    shared_id = shared_id_of(issuer)
    assembler = ContextAssembler(
        Recall(database), embedder, space_id, ContextSettings(), load_profiles(limits), model.model_name, shared_id
    )
    documents = Documents(database)
    ingest = IngestWorker(
        DocumentTasks(database),
        documents,
        Chunks(database),
        VectorStore(database),
        Parser(KnowledgeSettings(), embedder.space.max_tokens),
        embedder,
        space_id,
    )
    reports = Reports(database)
    admission = admission or Admission()
    parts = TurnParts(Transcript(database), assembler, model, 0.0, lambda: None, admission=admission)
    auth = AuthSettings(issuer=issuer, audience=AUDIENCE, jwks_file=str(key_file))
    server_settings = ServerSettings(**{"host": "127.0.0.1", "port": 0} | settings)
    library = Library(
        documents, Collections(database), shared_id, auth.knowledge_scope, KnowledgeSettings().max_bytes, ingest.wake
    )
    search = DocumentSearch(Recall(database), embedder, space_id, shared_id)
    drain, health, clock = Drain(), Health(), Clock()
    async with process_lease(Processes(database)) as lease, KeySet(auth) as keys:
        real = Turns(parts, StoredReplies(parts.transcript, reports), lease, LocalReplyLogs())
        takeover = Takeover(real, parts.transcript, lease, interrupt=False)
        verifier = TokenVerifier(auth, keys, QuotaSettings(tokens=None, turns=None))
        server = new_grpc_server(server_settings, verifier, health, admission)
        add_services(
            server,
            server_settings,
            turns(real),
            Conversations(database),
            reports,
            assembler,
            library,
            search,
            UsageLedger(database),
            drain,
            clock=clock,
        )
        port = bind(server, server_settings)
        await server.start()
        try:
            options = [("grpc.max_receive_message_length", -1), *channel_options]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield Stage(port, server, channel, model, real, takeover, ingest, drain, health, server_settings, clock)
        finally:
            await server.stop(None)
            await real.drain(0)


def write_keys(directory: Path) -> Path:
    path = directory / "jwks.json"
    path.write_bytes(key_set(signer("main")))
    return path


def outgoing(conversation_id: str, text: str = "hello", **fields) -> OutgoingMessage:
    values = {"conversation_id": conversation_id, "client_message_id": str(uuid4())} | fields
    return OutgoingMessage(parts=[Part(text=TextPart(text=text))], **values)


class Stream:
    """A Chat stream as a client sees it, with one event at a time and a limit to every wait."""

    def __init__(self, stage: Stage, metadata: Metadata | None = None) -> None:
        self.call = stage.chat.Chat(metadata=metadata or signed_in())

    async def say(self, **event) -> None:
        await asyncio.wait_for(self.call.write(chat_pb.ChatRequest(**event)), PATIENCE)

    async def hear(self) -> chat_pb.ChatResponse | None:
        """The next event; None at an end with OK.

        Raises:
            grpc.aio.AioRpcError: The stream ended otherwise.
        """
        response = await asyncio.wait_for(self.call.read(), PATIENCE)
        return None if response is grpc.aio.EOF else response

    async def hear_kind(self, kind: str):
        """The next event of a kind; those before it are passed over."""
        while (response := await self.hear()) is not None:
            if response.WhichOneof("event") == kind:
                return getattr(response, kind)
        raise AssertionError(f"the stream ended without {kind}")

    async def hear_reply(self, kind: str) -> chat_pb.ReplyEvent:
        while True:
            event = await self.hear_kind("reply")
            if event.WhichOneof("event") == kind:
                return event

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.call.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def rest(call) -> list:
    """All further responses of a stream, until its end."""
    responses = []
    async with asyncio.timeout(PATIENCE):
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    return responses


async def failure(call) -> grpc.aio.AioRpcError:
    """The error that a call ends with, be it of one response or of many."""
    try:
        async with asyncio.timeout(PATIENCE):
            if hasattr(call, "read"):
                await rest(call)
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


@dataclass
class Told:
    """What a client reads out of an error."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    retry_after: float | None
    quota: str | None
    resource: tuple[str, str] | None


def told(error: grpc.aio.AioRpcError) -> Told:
    status = rpc_status.from_call(error)
    assert status is not None, f"no details in {error!r}"
    return told_by(status)


def told_by(status: Status) -> Told:
    details = {}
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo, QuotaFailure, ResourceInfo):
            if packed.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(packed.value)
    info = details[ErrorInfo]
    retry, quota, resource = details.get(RetryInfo), details.get(QuotaFailure), details.get(ResourceInfo)
    return Told(
        code=next(code for code in grpc.StatusCode if code.value[0] == status.code),
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        fields=[each.field for each in details[BadRequest].field_violations] if BadRequest in details else [],
        retry_after=retry.retry_delay.ToMilliseconds() / 1000 if retry else None,
        quota=quota.violations[0].subject if quota else None,
        resource=(resource.resource_type, resource.resource_name) if resource else None,
    )


def new_id() -> str:
    return str(uuid4())
