"""An issuer of the tests' own: RSA keys, their public set, and tokens good and bad."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jwt

ISSUER = "https://issuer.test"
AUDIENCE = "chatrpc"


class SigningKey:
    """An RSA key with a key id."""

    def __init__(self, kid: str) -> None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = kid
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._signer = jwk.construct(pem.decode(), "RS256")
        self.public_pem = (
            private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def token(self, *, without: str | None = None, **changes: Any) -> str:
        """A token for alice that is good for an hour, with claims changed or left out."""
        claims = {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 3600} | changes
        claims.pop(without, None)
        return jwt.encode(claims, self._signer, algorithm="RS256", headers={"kid": self.kid})


def key_set(*keys: SigningKey) -> str:
    """The keys' JSON Web Key Set."""
    public = [jwk.construct(key.public_pem, "RS256").to_dict() for key in keys]
    return json.dumps({"keys": [one | {"kid": key.kid, "use": "sig"} for one, key in zip(public, keys, strict=True)]})


def handmade(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token that no library would sign."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
