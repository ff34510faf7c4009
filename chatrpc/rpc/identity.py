"""Who calls. The one place where a token becomes a caller, for every door.

Envoy refuses bad tokens early, but nothing that it says counts here: each token is verified again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid5

from jose import jwt
from jose.exceptions import ExpiredSignatureError, JOSEError
from jose.utils import base64url_decode, base64url_encode

from chatrpc.domain import NO_QUOTA, Caller, Quota
from chatrpc.errors import InvalidInput, PermissionDenied, Reason, Unauthenticated
from chatrpc.rpc.jwks import ALGORITHMS, KeySet, VerificationKey
from chatrpc.rpc.quota_claim import quota_of
from chatrpc.settings import AuthSettings, QuotaSettings

AUTHORIZATION = "authorization"
ON_BEHALF_OF = "x-chatrpc-on-behalf-of"

# Characters; real tokens have some hundreds to a few thousand.
MAX_TOKEN_LENGTH = 16 * 1024
# Seconds by which the clocks of the issuer and of this machine may differ, for `exp` and `nbf`.
LEEWAY = 5

_USER_NAMESPACE = UUID("6ea53b66-b611-480f-a852-582b5e7ceeb1")
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CACHED_TOKENS = 4096
_MALFORMED = "it is not a signed JSON Web Token in compact form"


def user_id_of(issuer: str, subject: str) -> UUID:
    """The id that all rows of a user bear. Issuer and subject are encoded as JSON, so no two pairs look alike."""
    return uuid5(_USER_NAMESPACE, json.dumps([issuer, subject]))


def shared_id_of(issuer: str) -> UUID:
    """The owner of what all users of an issuer share. No user has this id: theirs are made of two names."""
    return uuid5(_USER_NAMESPACE, json.dumps([issuer]))


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a valid token says.

    Attributes:
        expires_at: Seconds since the epoch from which on it is refused, leeway included.
    """

    key: VerificationKey
    subject: str
    scopes: frozenset[str]
    expires_at: float
    quota: Quota


class TokenVerifier:
    """Verifies access tokens of one issuer.

    Args:
        quota: What each user may use whose token does not say otherwise; None limits nobody.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: AuthSettings,
        keys: KeySet,
        quota: QuotaSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._quota = quota
        self._clock = clock
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, authorization: str | None, on_behalf_of: str | None) -> Caller:
        """The caller of a request with these two metadata values (None: absent).

        A token without the scope `chat.act_as` that comes with an act-as value is refused. Ignoring the value would
        let a service whose scope is missing write into its own account, believing it to be a user's.

        Raises:
            Unauthenticated: No valid token.
            PermissionDenied: The token lacks the scope to act for somebody else.
            InvalidInput: The subject to act for is malformed.
            Unavailable: The issuer's keys could not be had yet.
        """
        verified = await self._verify_token(_bearer(authorization))
        if on_behalf_of is None:
            subject, actor = verified.subject, None
        else:
            if self._settings.act_as_scope not in verified.scopes:
                raise PermissionDenied(
                    Reason.SCOPE_MISSING,
                    f"{ON_BEHALF_OF} needs a token with the scope {self._settings.act_as_scope}.",
                    scope=self._settings.act_as_scope,
                )
            if not _is_subject(on_behalf_of):
                raise InvalidInput(
                    ON_BEHALF_OF,
                    f"{ON_BEHALF_OF} must be 1 to 255 printable characters, with no space around them.",
                )
            subject, actor = on_behalf_of, verified.subject
        issuer = self._settings.issuer
        return Caller(
            user_id=user_id_of(issuer, subject),
            subject=subject,
            issuer=issuer,
            actor=actor,
            scopes=verified.scopes,
            expires_at=verified.expires_at,
            # Of a service that acts for users, what its token says holds for each of them.
            quota=verified.quota,
        )

    async def _verify_token(self, token: str) -> _Verified:
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._cache.get(digest)
        if verified is None or await self._keys.find(verified.key.key_id) is not verified.key:
            verified = await self._verify_afresh(token)
            self._cache[digest] = verified
        if self._clock() >= verified.expires_at:
            self._cache.pop(digest, None)
            raise Unauthenticated(Reason.TOKEN_EXPIRED, "The token has expired; get a new one.")
        self._cache.move_to_end(digest)
        if len(self._cache) > _CACHED_TOKENS:
            self._cache.popitem(last=False)
        return verified

    async def _verify_afresh(self, token: str) -> _Verified:
        if not _is_canonical(token.rpartition(".")[2]):
            raise _invalid(_MALFORMED)
        try:
            header = jwt.get_unverified_header(token)
        except JOSEError:
            raise _invalid("its header is malformed") from None
        # Before any key is touched: `none` and HMAC "signed" with a public key end here.
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _invalid("only tokens signed with " + " or ".join(sorted(ALGORITHMS)) + " are accepted")
        if "crit" in header:
            raise _invalid("it demands extensions that are not known here")
        key_id = header.get("kid")
        if not isinstance(key_id, str):
            raise _invalid("its header names no key (kid)")
        key = await self._keys.find(key_id)
        if key is None or key.algorithm != algorithm:
            raise _invalid("the accepted issuer has no such key")
        return self._read_claims(key, self._decode(token, key))

    def _decode(self, token: str, key: VerificationKey) -> Mapping[str, object]:
        audience = self._settings.audience
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=audience,
                issuer=self._settings.issuer,
                options={
                    "require_exp": True,
                    "require_iss": True,
                    "require_sub": True,
                    # Without the requirement, python-jose lets a token without `aud` pass for any audience.
                    "require_aud": audience is not None,
                    "verify_aud": audience is not None,
                    "verify_at_hash": False,
                    "leeway": LEEWAY,
                },
            )
        except ExpiredSignatureError:
            raise Unauthenticated(Reason.TOKEN_EXPIRED, "The token has expired; get a new one.") from None
        except (JOSEError, ValueError, TypeError, OverflowError, RecursionError):
            # python-jose converts claims before it checks their types.
            raise _invalid("its signature or one of its claims (exp, nbf, iss, sub, aud) is not acceptable") from None

    def _read_claims(self, key: VerificationKey, claims: Mapping[str, object]) -> _Verified:
        client_ids = self._settings.client_ids
        if client_ids and (claims.get("client_id") not in client_ids or claims.get("token_use") != "access"):
            raise _invalid("it is not an access token of an accepted client")
        subject, expires = claims["sub"], claims["exp"]
        if not isinstance(subject, str) or not _is_subject(subject):
            raise _invalid("its subject must be 1 to 255 printable characters, with no space around them")
        if not isinstance(expires, int | float):
            raise _invalid("its exp claim is not a number")
        try:
            expires_at = float(expires) + LEEWAY
        except OverflowError:
            raise _invalid("its exp claim is out of range") from None
        try:
            quota = NO_QUOTA if self._quota is None else quota_of(self._quota, claims)
        except ValueError as error:
            raise _invalid(str(error)) from None
        return _Verified(key, subject, _scopes(claims), expires_at, quota)


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise Unauthenticated(
            Reason.TOKEN_MISSING, "The call bears no token; send the metadata `authorization: Bearer <token>`."
        )
    if len(authorization) > MAX_TOKEN_LENGTH:
        raise _invalid(f"it is longer than {MAX_TOKEN_LENGTH} characters")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _invalid("the metadata `authorization` must be `Bearer <token>`")
    if not _COMPACT.fullmatch(token):
        raise _invalid(_MALFORMED)
    return token


def _is_canonical(segment: str) -> bool:
    """Whether no other spelling of the same bytes was chosen: the last character has unused bits."""
    try:
        return bool(base64url_encode(base64url_decode(segment.encode())) == segment.encode())
    except ValueError:
        return False


def _is_subject(subject: str) -> bool:
    return 1 <= len(subject) <= 255 and subject.isprintable() and subject == subject.strip()


def _scopes(claims: Mapping[str, object]) -> frozenset[str]:
    """Scopes as OAuth 2 (`scope`), Entra and Okta (`scp`) and Auth0 (`permissions`) write them."""
    found: set[str] = set()
    for name in ("scope", "scp", "permissions"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split())
        elif isinstance(value, list):
            found.update(item for item in value if isinstance(item, str))
    return frozenset(found)


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(Reason.TOKEN_INVALID, f"The token is not valid: {why}.")
