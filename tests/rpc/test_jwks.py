"""The issuer's keys, from a real file and a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatrpc.errors import Reason, Unavailable
from chatrpc.rpc.jwks import KeySet, parse_key_set
from chatrpc.settings import AuthSettings
from tests.rpc.signer import ISSUER, KeyServer, key_set, serve_keys, signer

OLD, NEW, ELLIPTIC = signer("old"), signer("new"), signer("elliptic", "ES256")


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serve_keys(key_set(OLD)) as running:
        yield running


def from_url(server: KeyServer, *, refresh: float = 300.0, refetch_interval: float = 0.0) -> KeySet:
    settings = AuthSettings(issuer=ISSUER, jwks_url=server.url, jwks_refresh=refresh)
    return KeySet(settings, refetch_interval=refetch_interval)


def from_file(path: Path) -> KeySet:
    return KeySet(AuthSettings(issuer=ISSUER, jwks_file=str(path)))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_keys_of_an_address_are_found_and_kept(server: KeyServer) -> None:
    async with from_url(server) as keys:
        found = await keys.find("old")
        assert found is not None
        assert (found.key_id, found.algorithm) == ("old", "RS256")
        assert await keys.find("old") is found
    assert server.requests == 1


async def test_an_unknown_key_is_fetched_at_once(server: KeyServer) -> None:
    async with from_url(server) as keys:
        assert await keys.find("old") is not None
        server.document = key_set(OLD, NEW)
        assert await keys.find("new") is not None


async def test_unknown_keys_do_not_become_a_load_on_the_issuer(server: KeyServer) -> None:
    async with from_url(server, refetch_interval=3600.0) as keys:
        for number in range(50):
            assert await keys.find(f"made up {number}") is None
    assert server.requests == 1


async def test_many_at_once_share_one_fetch(server: KeyServer) -> None:
    async with from_url(server) as keys:
        assert await keys.find("old") is not None
        server.document = key_set(OLD, NEW)
        server.answering.clear()
        finders = [asyncio.create_task(keys.find("new")) for _ in range(100)]
        await until(lambda: server.requests == 2)
        server.answering.set()
        assert None not in await asyncio.gather(*finders)
    assert server.requests == 2


async def test_who_gives_up_waiting_does_not_spoil_the_fetch_for_others(server: KeyServer) -> None:
    async with from_url(server, refetch_interval=3600.0) as keys:
        server.answering.clear()
        impatient = asyncio.create_task(keys.find("old"))
        patient = asyncio.create_task(keys.find("old"))
        await until(lambda: server.requests == 1)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        server.answering.set()
        assert await patient is not None


async def test_a_withdrawn_key_ends_by_the_refresh_alone(server: KeyServer) -> None:
    async with from_url(server, refresh=0.02, refetch_interval=3600.0) as keys:
        assert await keys.find("old") is not None
        server.document = key_set(NEW)
        seen = server.requests
        await until(lambda: server.requests >= seen + 2)
        assert await keys.find("old") is None
        assert await keys.find("new") is not None


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, b"oops"),
        (302, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": []}'),
        (200, b"[" * 100_000),
        (200, b"\xff"),
    ],
)
async def test_keys_stay_while_the_issuer_answers_badly(server: KeyServer, status: int, document: bytes) -> None:
    async with from_url(server, refresh=0.02, refetch_interval=0.02) as keys:
        found = await keys.find("old")
        server.status, server.document = status, document
        seen = server.requests
        await until(lambda: server.requests >= seen + 3)
        assert await keys.find("old") is found is not None
        server.status, server.document = 200, key_set(NEW)
        seen = server.requests
        await until(lambda: server.requests >= seen + 2)
        assert await keys.find("new") is not None


async def test_an_issuer_out_of_reach_is_unavailable_until_it_is_back(server: KeyServer) -> None:
    server.status = 503
    async with from_url(server, refetch_interval=0.02) as keys:
        with pytest.raises(Unavailable) as refused:
            await keys.find("old")
        assert refused.value.reason is Reason.KEYS_UNAVAILABLE
        assert server.url not in refused.value.message
        server.status = 200
        seen = server.requests
        # By its own retries: nobody asks meanwhile.
        await until(lambda: server.requests > seen)
        assert await keys.find("old") is not None


async def test_nobody_listening_is_unavailable() -> None:
    with serve_keys(key_set(OLD)) as gone:
        pass
    async with from_url(gone) as keys:
        with pytest.raises(Unavailable):
            await keys.find("old")


async def test_closing_ends_a_fetch_under_way(server: KeyServer) -> None:
    async with from_url(server):
        server.answering.clear()
        await until(lambda: server.requests == 1)
    assert len(asyncio.all_tasks()) == 1


async def test_a_file_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(OLD))
    async with from_file(path) as keys:
        found = await keys.find("old")
        assert await keys.find("old") is found is not None
        replacement = tmp_path / "replacement"
        replacement.write_bytes(key_set(NEW))
        replacement.replace(path)
        assert await keys.find("new") is not None
        assert await keys.find("old") is None


async def test_keys_stay_while_a_file_is_gone_or_half_written(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(OLD))
    async with from_file(path) as keys:
        assert await keys.find("old") is not None
        path.write_bytes(key_set(OLD)[:40])
        assert await keys.find("old") is not None
        path.unlink()
        assert await keys.find("old") is not None
        path.write_bytes(key_set(NEW))
        assert await keys.find("new") is not None


async def test_a_file_that_appears_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    async with from_file(path) as keys:
        with pytest.raises(Unavailable):
            await keys.find("old")
        path.write_bytes(key_set(OLD))
        assert await keys.find("old") is not None


def test_the_type_of_a_key_gives_its_algorithm() -> None:
    keys = parse_key_set(key_set(OLD, ELLIPTIC))
    assert {key_id: key.algorithm for key_id, key in keys.items()} == {"old": "RS256", "elliptic": "ES256"}


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": ["RSA"]},
        {"crv": {}},
        {"kid": None},
        {"kid": 7},
        {"n": None},
        {"n": "é"},
        {"n": ""},
        {"e": []},
    ],
    ids=str,
)
def test_keys_of_no_use_are_left_out(change: dict[str, object]) -> None:
    document = json.dumps({"keys": [OLD.entry | change, NEW.entry, "nonsense"]}).encode()
    assert parse_key_set(document).keys() == {"new"}


@pytest.mark.parametrize("change", [{"crv": "P-384"}, {"x": "AAAA"}, {"y": None}], ids=str)
def test_elliptic_keys_of_no_use_are_left_out(change: dict[str, object]) -> None:
    document = json.dumps({"keys": [ELLIPTIC.entry | change, NEW.entry]}).encode()
    assert parse_key_set(document).keys() == {"new"}
