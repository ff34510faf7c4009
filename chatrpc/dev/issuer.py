"""The local token issuer: stands in for an identity provider while developing.

Its key never leaves the data directory. Envoy and the server get its JSON Web Key Set as a file, so no further
HTTP server runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jwt
from jose.exceptions import JWKError

from chatrpc.errors import SettingsError

ISSUER = "https://chatrpc.localhost"
AUDIENCE = "chatrpc"

_KEY_FILE = "key.pem"
_JWKS_FILE = "jwks.json"
_ALGORITHM = "RS256"


@dataclass(frozen=True, slots=True)
class LocalIssuer:
    """Signs access tokens with a key of its own.

    Attributes:
        jwks: The public key as a JSON Web Key Set, in JSON.
        jwks_file: Where the same text stands, for `CHATRPC_AUTH_JWKS_FILE`.
    """

    jwks: str
    jwks_file: Path
    _private_key: str
    _key_id: str

    @classmethod
    def create(cls, directory: Path) -> LocalIssuer:
        """Open the issuer of a directory, with a new key where there is none yet. One process at a time."""
        key_file = directory / _KEY_FILE
        if not key_file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            _write(key_file, private_key, 0o600)
        issuer = cls.open(directory)
        # Written at each start: a broken-off first start may have left the key without it.
        _write(issuer.jwks_file, issuer.jwks.encode(), 0o644)
        return issuer

    @classmethod
    def open(cls, directory: Path) -> LocalIssuer:
        """Open the issuer that `create` made.

        Raises:
            SettingsError: There is none, or its key is not readable.
        """
        key_file = directory / _KEY_FILE
        try:
            private_key = key_file.read_text()
            public = jwk.construct(private_key, _ALGORITHM).public_key().to_dict()
        except FileNotFoundError:
            raise SettingsError(f"{directory} has no local token issuer; start `chatrpc dev` once.") from None
        except (OSError, ValueError, JWKError):
            raise SettingsError(f"{key_file} is not a readable RSA key; remove it, and a new one is made.") from None
        key_id = _thumbprint(public)
        jwks = json.dumps({"keys": [{**public, "kid": key_id, "use": "sig"}]})
        return cls(jwks, directory / _JWKS_FILE, private_key, key_id)

    def mint(self, subject: str, ttl: float = 3600.0, scopes: Iterable[str] = (), **claims: object) -> str:
        """Sign an access token.

        Args:
            ttl: Seconds until it expires; below 0 for one that has expired.
            claims: Further claims; they replace the usual ones of the same name.
        """
        now = int(time.time())
        body: dict[str, object] = {
            "iss": ISSUER,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + int(ttl),
            "jti": str(uuid.uuid4()),
            "scope": " ".join(scopes),
            "token_use": "access",
        }
        return jwt.encode(body | claims, self._private_key, algorithm=_ALGORITHM, headers={"kid": self._key_id})


def _thumbprint(public: dict[str, object]) -> str:
    """RFC 7638: the key's digest over its required members, as an id that changes with the key."""
    members = {name: public[name] for name in ("e", "kty", "n")}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file whole, so that a reader or a broken-off start never sees half of it."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.replace(path)
