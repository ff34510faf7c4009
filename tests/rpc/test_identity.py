"""Which tokens make a caller, and which do not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chatrpc.dev.issuer import AUDIENCE as LOCAL_AUDIENCE
from chatrpc.dev.issuer import ISSUER as LOCAL_ISSUER
from chatrpc.dev.issuer import LocalIssuer
from chatrpc.domain import Caller
from chatrpc.errors import ChatError, InvalidInput, PermissionDenied, Reason, Unauthenticated, Unavailable
from chatrpc.rpc.identity import LEEWAY, MAX_TOKEN_LENGTH, TokenVerifier, user_id_of
from chatrpc.rpc.jwks import KeySet
from chatrpc.settings import AuthSettings
from tests.rpc.signer import AUDIENCE, ISSUER, Signer, key_set, serve_keys, signer

MAIN, OTHER, ELLIPTIC, FOREIGN = signer("main"), signer("other"), signer("elliptic", "ES256"), signer("foreign")
SERVICE = MAIN.sign(sub="billing", scope="chat chat.act_as")
ELLIPTIC_TOKEN = ELLIPTIC.sign()


class Clock:
    """A clock that a test can put forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_bytes(key_set(MAIN, OTHER, ELLIPTIC))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def verifier(key_file: Path, clock: Clock) -> AsyncIterator[TokenVerifier]:
    auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(key_file))
    async with KeySet(auth) as keys:
        yield TokenVerifier(auth, keys, clock=clock)


async def verify(verifier: TokenVerifier, token: str, on_behalf_of: str | None = None) -> Caller:
    return await verifier.verify(f"Bearer {token}", on_behalf_of)


async def refusal(verifier: TokenVerifier, authorization: str | None, on_behalf_of: str | None = None) -> ChatError:
    with pytest.raises(ChatError) as refused:
        await verifier.verify(authorization, on_behalf_of)
    return refused.value


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_with_public_key() -> str:
    """HS256 under the public key as the secret: accepted by verifiers that believe the header."""
    now = int(time.time())
    body = f"{segment({'alg': 'HS256', 'kid': 'main'})}.{segment({'iss': ISSUER, 'sub': 'alice', 'exp': now + 600})}"
    return f"{body}.{segment(hmac.digest(MAIN.public_pem.encode(), body.encode(), hashlib.sha256))}"


def with_header(**header: object) -> str:
    """A good token under another header, with the signature of its own header."""
    _, body, signature = MAIN.sign().split(".")
    return f"{segment({'alg': 'RS256', 'kid': 'main'} | header)}.{body}.{signature}"


@pytest.mark.parametrize("key", [MAIN, OTHER, ELLIPTIC], ids=lambda key: key.key_id)
async def test_a_valid_token_makes_a_caller(verifier: TokenVerifier, key: Signer) -> None:
    expires = int(time.time()) + 600
    caller = await verify(verifier, key.sign(scope="chat admin", exp=expires))
    assert caller == Caller(
        user_id=user_id_of(ISSUER, "alice"),
        subject="alice",
        issuer=ISSUER,
        actor=None,
        scopes=frozenset({"chat", "admin"}),
        expires_at=expires + LEEWAY,
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_has_no_case(verifier: TokenVerifier, scheme: str) -> None:
    assert (await verifier.verify(f"{scheme} {MAIN.sign()}", None)).subject == "alice"


@pytest.mark.parametrize("authorization", [None, ""])
async def test_no_token_is_missing(verifier: TokenVerifier, authorization: str | None) -> None:
    error = await refusal(verifier, authorization)
    assert isinstance(error, Unauthenticated)
    assert error.reason is Reason.TOKEN_MISSING


BAD_CLAIMS: dict[str, dict[str, object]] = {
    "foreign issuer": {"iss": "https://elsewhere.test"},
    "issuer with a slash more": {"iss": ISSUER + "/"},
    "issuer in a list": {"iss": [ISSUER]},
    "no issuer": {"iss": None},
    "no expiry": {"exp": None},
    "expiry as text": {"exp": "4102444800"},
    "expiry as a word": {"exp": "never"},
    "expiry as a list": {"exp": [4102444800]},
    "expiry infinite": {"exp": float("inf")},
    "expiry not a number": {"exp": float("nan")},
    "expiry beyond floats": {"exp": 10**400},
    "other audience": {"aud": "elsewhere"},
    "other audiences": {"aud": ["elsewhere", "there"]},
    "no audience": {"aud": None},
    "audience not text": {"aud": 7},
    "not yet valid": {"nbf": int(time.time()) + 600},
    "malformed nbf": {"nbf": []},
    "malformed iat": {"iat": {}},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject not text": {"sub": 7},
    "subject with a NUL": {"sub": "ali\0ce"},
    "subject with a line break": {"sub": "alice\nbob"},
    "subject with half a character": {"sub": "\ud800"},
    "subject too long": {"sub": "a" * 256},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_a_token_with_a_bad_claim_is_invalid(verifier: TokenVerifier, claims: dict[str, object]) -> None:
    error = await refusal(verifier, f"Bearer {MAIN.sign(**claims)}")
    assert isinstance(error, Unauthenticated)
    assert error.reason is Reason.TOKEN_INVALID


BAD_TOKENS: dict[str, str] = {
    "algorithm none": with_header(alg="none"),
    "algorithm none, no signature": with_header(alg="none").rpartition(".")[0] + ".",
    "HS256 with the public key": signed_with_public_key(),
    "no algorithm": with_header(alg=None),
    "algorithm in a list": with_header(alg=["RS256"]),
    "algorithm of another key": with_header(alg="ES256"),
    "algorithm stronger than ours": with_header(alg="RS512"),
    "no key id": with_header(kid=None),
    "key id not text": with_header(kid={}),
    "unknown key id": FOREIGN.sign(),
    "foreign key under our key id": FOREIGN.sign(headers={"kid": "main"}),
    "key named by the token": FOREIGN.sign(headers={"kid": "main", "jwk": FOREIGN.entry}),
    "unknown critical extension": MAIN.sign(headers={"crit": ["exp2"], "exp2": 1}),
    "header changed": with_header(typ="other"),
    "one segment": "abc",
    "two segments": "abc.def",
    "four segments": MAIN.sign() + ".abc",
    "encrypted": "a.b.c.d.e",
    "padding": MAIN.sign() + "==",
    "line break": MAIN.sign() + "\n",
    "not ASCII": MAIN.sign() + "é",
    "half a character": MAIN.sign() + "\ud800",
    "header not JSON": f"{segment(b'nonsense')}.e30.e30",
    "header a list": f"{segment([])}.e30.e30",
    "header deeply nested": f"{segment(b'[' * 10_000)}.e30.e30",
    "header not UTF-8": f"{segment(bytes([255]))}.e30.e30",
    "header of a broken length": "a.e30.e30",
    "signature of a broken length": MAIN.sign().rpartition(".")[0] + ".a",
    "payload a list": MAIN.sign().split(".")[0] + ".W10." + MAIN.sign().split(".")[2],
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_a_bad_token_is_invalid(verifier: TokenVerifier, token: str) -> None:
    error = await refusal(verifier, f"Bearer {token}")
    assert isinstance(error, Unauthenticated)
    assert error.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer ", "Basic YTpi", "Bearer  ", MAIN.sign()])
async def test_other_schemes_are_invalid(verifier: TokenVerifier, authorization: str) -> None:
    assert (await refusal(verifier, authorization)).reason is Reason.TOKEN_INVALID


async def test_an_oversized_token_is_refused_though_it_is_signed(verifier: TokenVerifier) -> None:
    error = await refusal(verifier, f"Bearer {MAIN.sign(padding='x' * MAX_TOKEN_LENGTH)}")
    assert error.reason is Reason.TOKEN_INVALID
    assert str(MAX_TOKEN_LENGTH) in error.message


async def test_an_expired_token_is_told_apart(verifier: TokenVerifier) -> None:
    error = await refusal(verifier, f"Bearer {MAIN.sign(exp=int(time.time()) - LEEWAY - 1)}")
    assert isinstance(error, Unauthenticated)
    assert error.reason is Reason.TOKEN_EXPIRED


async def test_a_token_seen_before_expires_all_the_same(verifier: TokenVerifier, clock: Clock) -> None:
    token = MAIN.sign(exp=int(time.time()) + 600)
    caller = await verify(verifier, token)
    clock.ahead = caller.expires_at - time.time() - 1
    assert await verify(verifier, token) == caller
    clock.ahead += 2
    assert (await refusal(verifier, f"Bearer {token}")).reason is Reason.TOKEN_EXPIRED


async def test_an_expired_foreign_token_is_invalid_not_expired(verifier: TokenVerifier) -> None:
    token = FOREIGN.sign(headers={"kid": "main"}, exp=1)
    assert (await refusal(verifier, f"Bearer {token}")).reason is Reason.TOKEN_INVALID


async def test_refusals_never_repeat_the_token(verifier: TokenVerifier) -> None:
    for token in (*BAD_TOKENS.values(), MAIN.sign(exp=1)):
        error = await refusal(verifier, f"Bearer {token}")
        assert token not in error.message
        assert token not in str(error.metadata)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), token=st.sampled_from([SERVICE, ELLIPTIC_TOKEN]))
async def test_no_mutation_of_a_valid_token_verifies(verifier: TokenVerifier, data: st.DataObject, token: str) -> None:
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 4)))
    inserted = data.draw(
        st.text("ABCDwxyz0189-_.=+/ \n", max_size=4) | st.just(token[start:end].swapcase()), label="inserted"
    )
    mutated = token[:start] + inserted + token[end:]
    if mutated == token:
        assert await verify(verifier, mutated)
    else:
        assert isinstance(await refusal(verifier, f"Bearer {mutated}"), Unauthenticated)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(authorization=st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: "Bearer " + segment(raw)))
async def test_nonsense_is_refused_with_a_typed_error(verifier: TokenVerifier, authorization: str) -> None:
    assert isinstance(await refusal(verifier, authorization), Unauthenticated)


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "chat chat.act_as"}, {"chat", "chat.act_as"}),
        ({"scope": "  chat \t admin "}, {"chat", "admin"}),
        ({"scp": ["chat", "admin", 7]}, {"chat", "admin"}),
        ({"scp": "chat admin"}, {"chat", "admin"}),
        ({"permissions": ["chat"], "scope": "openid"}, {"chat", "openid"}),
        ({"scope": {"chat": True}}, set()),
        ({}, set()),
    ],
    # A set is written in another order by each process.
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_scopes_are_read_as_issuers_write_them(
    verifier: TokenVerifier, claims: dict[str, object], scopes: set[str]
) -> None:
    assert (await verify(verifier, MAIN.sign(**claims))).scopes == scopes


async def test_a_service_with_the_scope_acts_for_a_user(verifier: TokenVerifier) -> None:
    caller = await verify(verifier, SERVICE, on_behalf_of="alice")
    assert (caller.subject, caller.actor) == ("alice", "billing")
    assert caller.user_id == (await verify(verifier, MAIN.sign(sub="alice"))).user_id


async def test_a_service_that_acts_for_nobody_is_itself(verifier: TokenVerifier) -> None:
    caller = await verify(verifier, SERVICE)
    assert (caller.subject, caller.actor, caller.user_id) == ("billing", None, user_id_of(ISSUER, "billing"))


@pytest.mark.parametrize("scope", ["", "chat", "chat.act_as2 xchat.act_as", "CHAT.ACT_AS", "chat.act_as,chat"])
@pytest.mark.parametrize("on_behalf_of", ["bob", "alice", "", "\0"])
async def test_acting_without_the_scope_is_refused_whoever_is_named(
    verifier: TokenVerifier, scope: str, on_behalf_of: str
) -> None:
    error = await refusal(verifier, f"Bearer {MAIN.sign(scope=scope)}", on_behalf_of)
    assert isinstance(error, PermissionDenied)
    assert error.reason is Reason.SCOPE_MISSING


@pytest.mark.parametrize("on_behalf_of", ["", " ", " bob", "bob ", "a\nb", "a\0b", "a" * 256])
async def test_a_malformed_subject_to_act_for_is_named(verifier: TokenVerifier, on_behalf_of: str) -> None:
    error = await refusal(verifier, f"Bearer {SERVICE}", on_behalf_of)
    assert isinstance(error, InvalidInput)
    assert error.field == "x-chatrpc-on-behalf-of"


async def test_acting_needs_a_valid_token_first(verifier: TokenVerifier) -> None:
    assert (await refusal(verifier, None, "bob")).reason is Reason.TOKEN_MISSING


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_user_ids_differ_exactly_as_issuer_and_subject_do(one: tuple[str, str], two: tuple[str, str]) -> None:
    assert (user_id_of(*one) == user_id_of(*two)) == (one == two)


def test_user_ids_never_change() -> None:
    assert str(user_id_of("https://chatrpc.localhost", "alice")) == "edb4285d-c27b-56af-ad77-a3dd3080a2be"


async def test_a_key_of_the_file_is_exchanged_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(MAIN))
    auth = AuthSettings(issuer=ISSUER, jwks_file=str(path))
    before, after = MAIN.sign(), OTHER.sign()
    async with KeySet(auth) as keys:
        verifier = TokenVerifier(auth, keys)
        assert await verify(verifier, before)
        assert (await refusal(verifier, f"Bearer {after}")).reason is Reason.TOKEN_INVALID
        path.write_bytes(key_set(OTHER))
        assert await verify(verifier, after)
        # Not even a token that was verified already outlives its key.
        assert (await refusal(verifier, f"Bearer {before}")).reason is Reason.TOKEN_INVALID


async def test_a_key_id_that_gets_another_key_ends_the_old_keys_tokens(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(MAIN))
    auth = AuthSettings(issuer=ISSUER, jwks_file=str(path))
    token = MAIN.sign()
    async with KeySet(auth) as keys:
        verifier = TokenVerifier(auth, keys)
        assert await verify(verifier, token)
        path.write_bytes(json.dumps({"keys": [OTHER.entry | {"kid": "main"}]}).encode())
        assert (await refusal(verifier, f"Bearer {token}")).reason is Reason.TOKEN_INVALID


async def test_a_key_of_the_address_is_exchanged_without_a_restart() -> None:
    with serve_keys(key_set(MAIN)) as server:
        auth = AuthSettings(issuer=ISSUER, jwks_url=server.url)
        async with KeySet(auth, refetch_interval=0.0) as keys:
            verifier = TokenVerifier(auth, keys)
            assert await verify(verifier, MAIN.sign())
            server.document = key_set(ELLIPTIC)
            assert await verify(verifier, ELLIPTIC.sign())
            assert (await refusal(verifier, f"Bearer {MAIN.sign()}")).reason is Reason.TOKEN_INVALID


async def test_a_file_of_keys_that_is_absent_is_told_before_anybody_calls(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.json")
    with capture_logs() as logs:
        async with KeySet(AuthSettings(issuer=ISSUER, jwks_file=path)):
            assert [(line["event"], line["source"]) for line in logs] == [("jwks.unreachable", path)]


async def test_without_keys_nobody_is_refused_for_good(tmp_path: Path) -> None:
    auth = AuthSettings(issuer=ISSUER, jwks_file=str(tmp_path / "absent.json"))
    async with KeySet(auth) as keys:
        error = await refusal(TokenVerifier(auth, keys), f"Bearer {MAIN.sign()}")
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.KEYS_UNAVAILABLE


COGNITO: dict[str, object] = {"aud": None, "client_id": "app-1", "token_use": "access", "username": "alice"}


@pytest.fixture
async def cognito(key_file: Path) -> AsyncIterator[TokenVerifier]:
    auth = AuthSettings(issuer=ISSUER, client_ids=("app-1", "app-2"), jwks_file=str(key_file))
    async with KeySet(auth) as keys:
        yield TokenVerifier(auth, keys)


async def test_an_access_token_of_cognito_has_a_client_and_no_audience(cognito: TokenVerifier) -> None:
    assert (await verify(cognito, MAIN.sign(**COGNITO))).subject == "alice"
    assert (await verify(cognito, MAIN.sign(**COGNITO | {"client_id": "app-2"}))).subject == "alice"


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "app-3"},
        {"client_id": None},
        {"client_id": ["app-1"]},
        {"token_use": "id"},
        {"token_use": None},
        # An id token of Cognito: the client stands in `aud`.
        {"token_use": "id", "client_id": None, "aud": "app-1"},
    ],
    ids=str,
)
async def test_other_tokens_of_cognito_are_invalid(cognito: TokenVerifier, change: dict[str, object]) -> None:
    error = await refusal(cognito, f"Bearer {MAIN.sign(**COGNITO | change)}")
    assert error.reason is Reason.TOKEN_INVALID


async def test_without_an_audience_setting_any_audience_passes(key_file: Path) -> None:
    auth = AuthSettings(issuer=ISSUER, jwks_file=str(key_file))
    async with KeySet(auth) as keys:
        assert (await verify(TokenVerifier(auth, keys), MAIN.sign(aud=["a", "b"]))).subject == "alice"


async def test_tokens_of_the_local_issuer_verify(tmp_path: Path) -> None:
    issuer = LocalIssuer.create(tmp_path)
    auth = AuthSettings(issuer=LOCAL_ISSUER, audience=LOCAL_AUDIENCE, jwks_file=str(issuer.jwks_file))
    async with KeySet(auth) as keys:
        caller = await verify(TokenVerifier(auth, keys), issuer.mint("alice", scopes=["chat"]))
    assert (caller.subject, caller.scopes) == ("alice", {"chat"})
