"""`chatrpc dev`, as a newcomer meets it."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import psutil
import pytest
from chatapi.v1.chat_service_pb2 import ChatRequest
from chatapi.v1.conversation_service_pb2 import ListConversationsRequest
from jose import jwt

from tests.e2e.stack import PATIENCE, SCRIPTS, Dev, client, environment, running_dev
from tests.e2e.test_bad_input import outgoing
from tests.e2e.test_serve import read_until
from tests.support.ports import free_port
from tests.support.provider import Answer, Provider


def started(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (SCRIPTS / "chatrpc", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_all_ends_with_a_signal_and_a_second_start_finds_the_data(tmp_path: Path, end: signal.Signals) -> None:
    with running_dev(tmp_path / "data", end=end) as first:
        children = psutil.Process(first.process.pid).children(recursive=True)
        assert {"postgres", "envoy"} <= {child.name() for child in children}
        async with grpc.aio.insecure_channel(first.edge) as channel:
            made = await client(channel, first.token).conversation()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with running_dev(tmp_path / "data", end=end) as second:
        async with grpc.aio.insecure_channel(second.edge) as channel:
            alice = client(channel, first.token)
            listed = await alice.conversations.ListConversations(ListConversationsRequest(), metadata=alice.metadata)
            assert [conversation.id for conversation in listed.conversations] == [made]


async def test_a_reply_that_is_running_at_the_end_comes_to_its_end(tmp_path: Path, provider: Provider) -> None:
    gate = asyncio.Event()
    provider.script(Answer(deltas=("one ", "two"), gate=gate, gate_at=1))
    model = {"CHATRPC_MODEL_BASE_URL": provider.base_url, "CHATRPC_MODEL_NAME": "test-model"}
    with running_dev(tmp_path / "data", **model) as running:
        async with grpc.aio.insecure_channel(running.edge) as channel:
            alice = client(channel, running.token)
            chat = alice.chat.Chat(metadata=alice.metadata)
            await chat.write(ChatRequest(send=outgoing(await alice.conversation())))
            await read_until(chat, "delta")
            running.process.terminate()
            await read_until(chat, "going_away")
            gate.set()
            finished = (await read_until(chat, "completed")).reply.completed
    assert [part.text.text for part in finished.message.parts] == ["one two"]


def test_a_second_start_on_the_same_directory_is_one_sentence(dev: Dev) -> None:
    refused = started("dev", "--data-dir", dev.data_dir, "--port", free_port())
    assert refused.returncode == 2
    assert refused.stdout == ""
    [sentence] = refused.stderr.strip().splitlines()
    assert str(dev.data_dir) in sentence
    assert str(dev.process.pid) in sentence


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = started("dev", "--data-dir", tmp_path / "data", "--port", port)
    assert refused.returncode == 2
    assert refused.stderr.strip() == f"chatrpc: Port {port} is in use; choose another with --port."


def test_a_data_directory_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    cluster = tmp_path / "data" / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("15\n")
    refused = started("dev", "--data-dir", tmp_path / "data", "--port", free_port())
    assert refused.returncode == 2
    assert "PostgreSQL 15" in refused.stderr.strip().splitlines()[-1]
    assert "Traceback" not in refused.stderr


def test_a_minted_token_is_the_users(dev: Dev) -> None:
    minted = started("token", "--user", "bob", "--ttl", 60, "--scope", "chat.act_as", "--data-dir", dev.data_dir)
    claims = jwt.get_unverified_claims(minted.stdout.strip())
    assert (claims["sub"], claims["scope"], claims["exp"] - claims["iat"]) == ("bob", "chat.act_as", 60)


def test_a_token_needs_an_issuer(tmp_path: Path) -> None:
    refused = started("token", "--user", "bob", "--data-dir", tmp_path)
    assert refused.returncode == 2
    assert "start `chatrpc dev` once" in refused.stderr
