"""The public keys of the token issuer, kept fresh."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import structlog
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JWKError

from chatrpc.errors import Reason, Unavailable
from chatrpc.settings import AuthSettings

_log = structlog.get_logger(__name__)

# What a key's type (and curve) may verify, and the members that make up its public half.
_SUPPORTED: Mapping[tuple[object, object], tuple[str, tuple[str, ...]]] = {
    ("RSA", None): ("RS256", ("kty", "n", "e")),
    ("EC", "P-256"): ("ES256", ("kty", "crv", "x", "y")),
}
ALGORITHMS = frozenset(algorithm for algorithm, _ in _SUPPORTED.values())

# Seconds that one fetch may take.
_FETCH_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class VerificationKey:
    """One public key. The same object is found again for as long as the key set stays as it is.

    Attributes:
        algorithm: The only algorithm that it verifies, given by its type and never by a token.
    """

    key_id: str
    algorithm: str
    key: Key


class KeySet:
    """The issuer's JSON Web Key Set, from a file or an address; use as an async context manager.

    An address is fetched again every `jwks_refresh` seconds, and at once for a key id not seen before, so a new key
    works from its first token on and a withdrawn one ends within that time. A file is read again when it changes.
    Where the set cannot be had or holds no usable key, the keys had before stay.

    Args:
        refetch_interval: Seconds between fetches for unknown key ids at least, and between tries after a failure, so
            that made-up tokens cannot turn into a load on the issuer.
    """

    def __init__(self, settings: AuthSettings, *, refetch_interval: float = 10.0) -> None:
        self._settings = settings
        self._refetch_interval = refetch_interval
        self._document: bytes | None = None
        self._keys: dict[str, VerificationKey] = {}
        self._file_state: tuple[int, int, int] | None = None
        self._client: httpx.AsyncClient | None = None
        self._refresher: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[bool] | None = None
        self._last_fetch = float("-inf")

    async def __aenter__(self) -> Self:
        if self._settings.jwks_url is not None:
            self._client = httpx.AsyncClient(timeout=_FETCH_TIMEOUT)
            self._refresher = asyncio.create_task(self._refresh(self._settings.jwks_url))
        elif self._settings.jwks_file is not None:
            # A wrong path is told at the start, not with the first call.
            await self._read_if_changed(Path(self._settings.jwks_file))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._refresher, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def find(self, key_id: str) -> VerificationKey | None:
        """The key of this id, or None if the issuer has none.

        Raises:
            Unavailable: No key set could be loaded yet.
        """
        if self._settings.jwks_file is not None:
            await self._read_if_changed(Path(self._settings.jwks_file))
        elif self._settings.jwks_url is not None and key_id not in self._keys and self._may_fetch():
            await self._fetch(self._settings.jwks_url)
        if not self._keys:
            raise Unavailable(
                Reason.KEYS_UNAVAILABLE,
                "Tokens cannot be verified at the moment: the issuer's keys are out of reach. Retry later.",
                retry_after=self._refetch_interval,
            )
        return self._keys.get(key_id)

    async def _refresh(self, url: str) -> None:
        while True:
            succeeded = await self._fetch(url)
            await asyncio.sleep(
                self._settings.jwks_refresh if succeeded else min(self._refetch_interval, self._settings.jwks_refresh)
            )

    async def _fetch(self, url: str) -> bool:
        """Fetch the set, together with all who want it now. A task of its own: who leaves spoils it for nobody."""
        if self._fetching is None:
            self._last_fetch = self._now()
            self._fetching = asyncio.create_task(self._fetch_alone(url))
        return await asyncio.shield(self._fetching)

    async def _fetch_alone(self, url: str) -> bool:
        assert self._client is not None, "a KeySet is used as an async context manager"
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                response = await self._client.get(url)
            response.raise_for_status()
            return self._take(response.content, url)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            _log.warning("jwks.unreachable", source=url, error=type(error).__name__)
            return False
        finally:
            self._fetching = None

    async def _read_if_changed(self, path: Path) -> None:
        try:
            status = os.stat(path)
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state == self._file_state:
                return
            document = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            _log.warning("jwks.unreachable", source=str(path), error=type(error).__name__)
            return
        self._file_state = state
        self._take(document, str(path))

    def _take(self, document: bytes, source: str) -> bool:
        if document == self._document:
            return True
        try:
            keys = parse_key_set(document)
        except (ValueError, RecursionError):
            keys = {}
        if not keys:
            _log.warning("jwks.unusable", source=source)
            return False
        _log.info("jwks.loaded", source=source, key_ids=sorted(keys))
        self._document, self._keys = document, keys
        return True

    def _may_fetch(self) -> bool:
        """Whether a fetch is under way already, or the last one is long enough ago."""
        return self._fetching is not None or self._now() - self._last_fetch >= self._refetch_interval

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def parse_key_set(document: bytes) -> dict[str, VerificationKey]:
    """The usable keys of a JSON Web Key Set by their ids. Keys of other kinds and purposes are left out.

    Raises:
        ValueError: The document is not a JSON Web Key Set.
    """
    parsed = json.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JSON Web Key Set")
    keys = (_parse_key(entry) for entry in entries if isinstance(entry, dict))
    return {key.key_id: key for key in keys if key is not None}


def _parse_key(entry: dict[str, object]) -> VerificationKey | None:
    key_id, key_type, curve = entry.get("kid"), entry.get("kty"), entry.get("crv")
    if not isinstance(key_id, str) or not isinstance(key_type, str) or not isinstance(curve, str | None):
        return None
    algorithm, members = _SUPPORTED.get((key_type, curve), (None, ()))
    if algorithm is None or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        # Without the private members that a careless issuer might publish.
        return VerificationKey(key_id, algorithm, jwk.construct({name: entry[name] for name in members}, algorithm))
    except (JWKError, KeyError, TypeError, ValueError, AttributeError):
        _log.warning("jwks.malformed_key", key_id=key_id)
        return None
