"""Keys that sign test tokens, and an issuer's address that serves their public halves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

ISSUER = "https://issuer.test"
AUDIENCE = "chatrpc"


class Signer:
    """One private key of an issuer."""

    def __init__(self, key_id: str, algorithm: str = "RS256") -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        private_key = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.private_pem = private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.public_pem = (
            private_key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @property
    def entry(self) -> dict[str, object]:
        """The public key as a member of a JSON Web Key Set."""
        return {**jwk.construct(self.public_pem, self.algorithm).to_dict(), "kid": self.key_id, "use": "sig"}

    def sign(self, headers: dict[str, object] | None = None, **claims: object) -> str:
        """Sign the usual claims, replaced by `claims`; None leaves a claim out."""
        now = int(time.time())
        usual: dict[str, object] = {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 600}
        body = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(
            body, self.private_pem, algorithm=self.algorithm, headers={"kid": self.key_id} | (headers or {})
        )


@cache
def signer(key_id: str, algorithm: str = "RS256") -> Signer:
    """The signer of this id; made once, since RSA keys take a while."""
    return Signer(key_id, algorithm)


def key_set(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.entry for signer in signers]}).encode()


class KeyServer:
    """Serves a JSON Web Key Set by HTTP, well or badly."""

    def __init__(self, document: bytes, url: str) -> None:
        self.document = document
        self.url = url
        self.status = 200
        self.requests = 0
        self.answering = threading.Event()
        self.answering.set()


@contextmanager
def serve_keys(document: bytes) -> Iterator[KeyServer]:
    """A key server on a free port; clearing `answering` makes it hang."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.requests += 1
            keys.answering.wait(30)
            self.send_response(keys.status)
            self.send_header("Content-Length", str(len(keys.document)))
            self.end_headers()
            # A client under test may have left.
            with suppress(ConnectionError):
                self.wfile.write(keys.document)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        keys = KeyServer(document, f"http://127.0.0.1:{server.server_port}/jwks.json")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield keys
        finally:
            keys.answering.set()
            server.shutdown()
            thread.join()
