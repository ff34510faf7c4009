"""Endpoints: the forms that are taken, and TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from chatapi.v1.chat_service_pb2_grpc import add_ChatServiceServicer_to_server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chatrpc.client import connect
from chatrpc.client.endpoint import open_channel
from chatrpc.errors import InvalidInput
from tests.client.scripted import PATIENCE, REPLY, Line, ScriptedChat, completed, serving

CLIENT = """
import asyncio, sys
from chatrpc.client import RetryPolicy, connect

async def main(endpoint, reply_id):
    async with connect(endpoint, "token", retry=RetryPolicy(tries=1)) as client, client.chat() as session:
        print((await session.resume(reply_id).reply()).parts[0].text.text)

asyncio.run(main(*sys.argv[1:]))
"""


async def _answer(line: Line) -> None:
    await line.hear("resume")
    await line.tell(completed(1, "heard"))
    await line.closed()


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "http://127.0.0.1:{}/", "127.0.0.1:{}", "http://localhost:{}"])
async def test_a_server_is_met_at_each_form_of_its_address(form: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        serving(ScriptedChat([_answer])) as port,
        connect(form.format(port), "token") as client,
        client.chat() as session,
    ):
        assert (await session.resume(REPLY).reply()).parts[0].text.text == "heard"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://",
        "http://host:port",
        "http://host:99999",
        "ftp://host:1",
        "http://host:1/path",
        "http://user@host:1",
        "http://host:1?x=1",
        "http://[::1:80",
    ],
)
async def test_other_forms_are_refused_with_the_right_one(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="http://host:port, https://host:port or host:port") as caught:
        open_channel(endpoint)
    assert caught.value.field == "endpoint"


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "tökén"])
async def test_a_token_that_cannot_be_one_is_refused_before_it_is_sent(token: str) -> None:
    async with connect("127.0.0.1:1", token) as client, client.chat() as session:
        with pytest.raises(InvalidInput, match="copy it whole"):
            await session.resume(REPLY).reply()


async def test_a_user_to_act_for_must_fit_into_metadata() -> None:
    with pytest.raises(InvalidInput) as caught:
        async with connect("127.0.0.1:1", "token", "älice"):
            pass
    assert caught.value.field == "on_behalf_of"


async def test_https_means_tls_with_a_certificate_that_is_checked(tmp_path: Path) -> None:
    key, certificate = _self_signed()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificate)
    server = grpc.aio.server()
    add_ChatServiceServicer_to_server(ScriptedChat([_answer]), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        # gRPC reads the list of authorities once in a process.
        trusted = await _run(port, {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority)})
        assert trusted.stdout.strip() == "heard", trusted.stderr
        untrusted = await _run(port, {})
        assert untrusted.returncode == 1
        assert "UNAVAILABLE" in untrusted.stderr
    finally:
        await server.stop(None)


async def _run(port: int, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        f"https://127.0.0.1:{port}",
        REPLY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode())


def _self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chatrpc.test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)
