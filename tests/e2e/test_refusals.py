"""What an operator got wrong is one sentence and exit code 2: no traceback, and no server that never becomes ready."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psycopg
import pytest

from chatrpc.cli import main
from tests.e2e.commands import LOGIN, Variables, login_role, running

# What a server needs where none of it is looked at.
COMPLETE = {
    "CHATRPC_DATABASE_URL": "postgresql:///chatrpc",
    "CHATRPC_AUTH_ISSUER": "https://issuer.test",
    "CHATRPC_AUTH_JWKS_FILE": "/nowhere/jwks.json",
    "CHATRPC_SERVER_PORT": "0",
}


@pytest.mark.parametrize(
    ("command", "change", "sentence"),
    [
        ("serve", {"CHATRPC_DATABASE_URL": ""}, "CHATRPC_DATABASE_URL is not set."),
        ("worker", {"CHATRPC_DATABASE_URL": ""}, "CHATRPC_DATABASE_URL is not set."),
        ("migrate", {"CHATRPC_DATABASE_URL": ""}, "CHATRPC_DATABASE_URL is not set."),
        ("serve", {"CHATRPC_AUTH_ISSUER": ""}, "CHATRPC_AUTH_ISSUER is not set."),
        ("envoy", {"CHATRPC_AUTH_ISSUER": ""}, "CHATRPC_AUTH_ISSUER is not set."),
        (
            "serve",
            {"CHATRPC_AUTH_JWKS_URL": "https://issuer.test/jwks.json"},
            "set exactly one of CHATRPC_AUTH_JWKS_URL and CHATRPC_AUTH_JWKS_FILE.",
        ),
        (
            "worker",
            {"CHATRPC_MODEL_BASE_URL": "http://127.0.0.1:9/v1"},
            "CHATRPC_MODEL_BASE_URL needs CHATRPC_MODEL_NAME.",
        ),
        ("serve", {"CHATRPC_SERVER_PORT": "70000"}, "CHATRPC_SERVER_PORT: "),
        ("serve", {"CHATRPC_LOG_LEVEL": "loud"}, "CHATRPC_LOG_LEVEL: "),
        ("migrate", {"CHATRPC_DATABASE_URL": "no url, secret"}, "CHATRPC_DATABASE_URL, or "),
        ("envoy", {}, "CHATRPC_AUTH_JWKS_FILE: /nowhere/jwks.json cannot be read: "),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    command: str,
    change: Variables,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in os.environ if name.startswith("CHATRPC_")]:
        monkeypatch.delenv(name)
    for name, value in (COMPLETE | change).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["chatrpc", command])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    [refused] = told.err.splitlines()
    assert refused.startswith(f"chatrpc: {sentence}")
    assert refused.endswith(".")
    assert "secret" not in refused


async def refusal(command: str, variables: Variables, cwd: Path) -> str:
    """The sentence with which a command ends, by the way of an operator: no traceback, no other word."""
    async with running(command, variables, cwd) as refused:
        assert await refused.ended() == 2
        [sentence] = refused.output
        assert sentence.startswith("chatrpc: ")
        assert sentence.endswith(".")
        return sentence.removeprefix("chatrpc: ")


async def test_a_missing_setting_is_one_sentence(tmp_path: Path) -> None:
    assert await refusal("serve", {}, tmp_path) == "CHATRPC_DATABASE_URL is not set."


async def test_a_malformed_database_url_is_not_tried_for_ever(tmp_path: Path) -> None:
    sentence = await refusal("serve", COMPLETE | {"CHATRPC_DATABASE_URL": "no url, secret"}, tmp_path)
    assert sentence.startswith("CHATRPC_DATABASE_URL, or CHATRPC_DATABASE_MIGRATION_URL, is malformed")
    assert "secret" not in sentence


async def test_a_port_in_use_is_one_sentence(variables: Variables, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with running("serve", variables | {"CHATRPC_SERVER_PORT": str(port)}, tmp_path) as refused:
            assert await refused.ended() == 2
    # gRPC's own library has the first word, and gives the reason.
    *_, sentence = refused.output
    assert sentence.startswith(f"chatrpc: The server cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in "".join(refused.output)


async def test_a_role_that_row_level_security_does_not_bind_is_refused(
    variables: Variables, database_url: str, tmp_path: Path
) -> None:
    variables |= {"CHATRPC_DATABASE_URL": database_url, "CHATRPC_DATABASE_ROLE": "postgres"}
    sentence = await refusal("serve", variables, tmp_path)
    assert sentence.startswith("Row-level security does not bind the role 'postgres'")


async def test_a_role_that_is_not_there_is_named(variables: Variables, tmp_path: Path) -> None:
    sentence = await refusal("serve", variables | {"CHATRPC_DATABASE_ROLE": "nobody_at_all"}, tmp_path)
    assert sentence.startswith("The database has no role 'nobody_at_all'; run `chatrpc migrate` first")


async def test_a_login_without_membership_in_the_role_is_told_how_to_get_it(
    variables: Variables, database_url: str, tmp_path: Path
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await login_role(connection, "stranger")
    variables |= {"CHATRPC_DATABASE_URL": database_url.replace("//postgres@", "//stranger@")}
    sentence = await refusal("serve", variables, tmp_path)
    assert sentence.endswith('GRANT "chatrpc_server" TO "stranger".')


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_database_without_schema_is_one_sentence(
    variables: Variables, command: str, empty_url: str, tmp_path: Path
) -> None:
    sentence = await refusal(command, variables | {"CHATRPC_DATABASE_URL": empty_url}, tmp_path)
    assert sentence == "The database has no chatrpc schema; run `chatrpc migrate` first."


async def test_a_migration_that_the_database_refuses_is_one_sentence(
    variables: Variables, empty_url: str, tmp_path: Path
) -> None:
    login_url = empty_url.replace("//postgres@", f"//{LOGIN}@")
    sentence = await refusal("migrate", variables | {"CHATRPC_DATABASE_MIGRATION_URL": login_url}, tmp_path)
    assert sentence.startswith("The database cannot be migrated: permission denied")
