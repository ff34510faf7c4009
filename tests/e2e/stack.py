"""The embedded stack as a person starts it: `chatrpc dev` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub

from chatrpc.dev.issuer import LocalIssuer
from chatrpc.dev.stack import DataDirectory
from tests.support.ports import free_port

SCRIPTS = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
# Seconds after which a test that waits for a process has failed.
PATIENCE = 60.0

Metadata = tuple[tuple[str, str], ...]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: no chatrpc variable but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATRPC_")}
    return kept | variables


@dataclass(frozen=True)
class Dev:
    """A running `chatrpc dev`; the fields are those of its JSON line."""

    endpoint: str
    direct_endpoint: str
    token: str
    database_url: str
    admin_endpoint: str
    data_dir: Path
    process: subprocess.Popen[str]

    @property
    def edge(self) -> str:
        """`host:port` of Envoy."""
        return self.endpoint.removeprefix("http://")

    @property
    def doors(self) -> dict[str, str]:
        return {"edge": self.edge, "direct": self.direct_endpoint}

    def token_of(self, user: str, *, ttl: float = 3600.0, scopes: tuple[str, ...] = ()) -> str:
        return LocalIssuer.open(DataDirectory(self.data_dir).issuer).mint(user, ttl=ttl, scopes=scopes)


def signed(token: str, **metadata: str) -> Metadata:
    return (
        ("authorization", f"Bearer {token}"),
        *((name.replace("_", "-"), value) for name, value in metadata.items()),
    )


@contextmanager
def running_dev(data_dir: Path, *options: str, end: signal.Signals = signal.SIGTERM, **variables: str) -> Iterator[Dev]:
    """Start the stack, wait until it is ready, and end it with a signal; it must end with exit code 0."""
    port = free_port()
    command = (SCRIPTS / "chatrpc", "dev", "--data-dir", data_dir, "--port", str(port), "--json", *options)
    log = data_dir.parent / f"{data_dir.name}.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(**variables)
        )
    assert process.stdout is not None  # It is piped.
    try:
        line = process.stdout.readline()
        assert line, f"chatrpc dev ended without a word: {log.read_text()[-2000:]}"
        yield Dev(**json.loads(line), data_dir=data_dir, process=process)
    finally:
        process.send_signal(end)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.stdout.close()
    assert code == 0, log.read_text()[-2000:]


@dataclass(frozen=True)
class Client:
    """Stubs over one channel, and a conversation to talk in."""

    chat: ChatServiceStub
    conversations: ConversationServiceStub
    metadata: Metadata

    async def conversation(self) -> str:
        created = await self.conversations.CreateConversation(CreateConversationRequest(), metadata=self.metadata)
        return created.conversation.id


def client(channel: grpc.aio.Channel, token: str, **metadata: str) -> Client:
    return Client(ChatServiceStub(channel), ConversationServiceStub(channel), signed(token, **metadata))
