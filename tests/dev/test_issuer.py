"""The local token issuer."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from jose import jwt

from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.errors import SettingsError


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> LocalIssuer:
    return LocalIssuer.create(tmp_path_factory.mktemp("issuer") / "made")


def claims_of(issuer: LocalIssuer, token: str) -> dict[str, object]:
    return jwt.decode(token, issuer.jwks, algorithms=["RS256"], audience=AUDIENCE, options={"verify_exp": False})


def test_a_token_has_the_usual_claims_of_an_access_token(issuer: LocalIssuer) -> None:
    before = int(time.time())
    claims = claims_of(issuer, issuer.mint("alice", ttl=60, scopes=["chat", "chat.act_as"]))
    issued, identifier = claims.pop("iat"), claims.pop("jti")
    assert isinstance(issued, int)
    assert before <= issued <= time.time()
    assert identifier
    assert claims == {
        "iss": ISSUER,
        "sub": "alice",
        "aud": AUDIENCE,
        "exp": issued + 60,
        "scope": "chat chat.act_as",
        "token_use": "access",
    }


def test_two_tokens_are_never_the_same(issuer: LocalIssuer) -> None:
    assert issuer.mint("alice") != issuer.mint("alice")


def test_claims_can_be_added_and_replaced(issuer: LocalIssuer) -> None:
    claims = claims_of(issuer, issuer.mint("alice", client_id="app", iss="https://elsewhere.test"))
    assert (claims["client_id"], claims["iss"]) == ("app", "https://elsewhere.test")


def test_the_token_names_its_key(issuer: LocalIssuer) -> None:
    (key,) = json.loads(issuer.jwks)["keys"]
    assert jwt.get_unverified_header(issuer.mint("alice"))["kid"] == key["kid"]


def test_the_key_set_holds_no_private_half(issuer: LocalIssuer) -> None:
    (key,) = json.loads(issuer.jwks)["keys"]
    assert key.keys() == {"kty", "alg", "use", "kid", "n", "e"}


def test_the_key_is_for_its_owner_only_and_the_key_set_is_beside_it(issuer: LocalIssuer) -> None:
    assert stat.S_IMODE((issuer.jwks_file.parent / "key.pem").stat().st_mode) == 0o600
    assert issuer.jwks_file.read_text() == issuer.jwks


def test_a_second_start_has_the_same_key(issuer: LocalIssuer) -> None:
    token = issuer.mint("alice")
    again = LocalIssuer.create(issuer.jwks_file.parent)
    assert again.jwks == issuer.jwks
    assert claims_of(again, token)["sub"] == "alice"


def test_a_removed_key_is_replaced_by_one_of_another_id(tmp_path: Path) -> None:
    before = json.loads(LocalIssuer.create(tmp_path).jwks)["keys"][0]["kid"]
    (tmp_path / "key.pem").unlink()
    assert json.loads(LocalIssuer.create(tmp_path).jwks)["keys"][0]["kid"] != before


def test_opening_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no local token issuer; start `chatrpc dev` once"):
        LocalIssuer.open(tmp_path)
    assert not list(tmp_path.iterdir())


def test_opening_finds_the_key_that_was_made(issuer: LocalIssuer) -> None:
    token = LocalIssuer.open(issuer.jwks_file.parent).mint("bob")
    assert claims_of(issuer, token)["sub"] == "bob"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(SettingsError, match=r"key\.pem is not a readable RSA key"):
        LocalIssuer.create(tmp_path)
