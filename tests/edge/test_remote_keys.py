"""Keys that Envoy fetches from the issuer."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before, until
from tests.edge.issuer import AUDIENCE, ISSUER, SigningKey, key_set
from tests.edge.upstream import LIST_MESSAGES, Upstream
from tests.support.ports import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(slots=True)
class KeyServer:
    """An HTTP(S) server on loopback that gives one key set."""

    keys: str
    port: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.keys)}\r\nconnection: close\r\n\r\n"
        writer.write((head + self.keys).encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def _serve_keys(keys: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[KeyServer]:
    served = KeyServer(keys)
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for a host name, and the file that vouches for it."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file


def _auth(url: str, refresh: float = 300.0) -> AuthSettings:
    return AuthSettings(issuer=ISSUER, jwks_url=url, audience=AUDIENCE, jwks_refresh=refresh)


async def _admitted(edge: Edge, token: str) -> bool:
    try:
        return await edge.call(LIST_MESSAGES, b"hello", token) == b"hello"
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False


async def test_keys_are_there_before_the_first_call(upstream: Upstream, key: SigningKey) -> None:
    async with (
        _serve_keys(key_set(key)) as server,
        edge_before(upstream.port, _auth(f"http://127.0.0.1:{server.port}/keys")) as edge,
    ):
        assert await edge.figure("http.edge.jwt_authn.jwks_fetch_success") == 1
        assert await _admitted(edge, key.token())
        assert not await _admitted(edge, SigningKey("another").token())


async def test_a_new_key_is_picked_up_without_a_restart(upstream: Upstream, key: SigningKey) -> None:
    new_key = SigningKey("second")
    async with (
        _serve_keys(key_set(key)) as server,
        edge_before(upstream.port, _auth(f"http://127.0.0.1:{server.port}/keys", refresh=0.2)) as edge,
    ):
        assert not await _admitted(edge, new_key.token())
        server.keys = key_set(key, new_key)
        await until(lambda: _admitted(edge, new_key.token()))
        assert await _admitted(edge, key.token())


async def test_an_issuer_that_is_down_makes_calls_unauthenticated_until_it_is_back(
    upstream: Upstream, key: SigningKey
) -> None:
    port = free_ports(1)[0]
    async with edge_before(upstream.port, _auth(f"http://127.0.0.1:{port}/keys")) as edge:
        assert not await _admitted(edge, key.token())
        assert await edge.figure("http.edge.jwt_authn.jwks_fetch_failed") >= 1
        server = await asyncio.start_server(KeyServer(key_set(key)).answer, "127.0.0.1", port)
        async with server:
            await until(lambda: _admitted(edge, key.token()))


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("elsewhere.test", False)])
async def test_over_tls_the_keys_host_must_prove_its_name(
    upstream: Upstream, key: SigningKey, tmp_path: Path, name: str, trusted: bool
) -> None:
    context, ca_file = _certificate(tmp_path, name)
    async with _serve_keys(key_set(key), context) as server:
        auth = _auth(f"https://localhost:{server.port}/keys")
        async with edge_before(upstream.port, auth, ca_file=str(ca_file)) as edge:
            assert await _admitted(edge, key.token()) is trusted
