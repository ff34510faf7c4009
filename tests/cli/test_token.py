"""`chatrpc token` and what `chatrpc dev` reads from the environment."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from jose import jwt

from chatrpc.cli.dev import _settings
from chatrpc.cli.token import token
from chatrpc.dev.issuer import LocalIssuer
from chatrpc.dev.stack import DataDirectory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataDirectory:
    data = DataDirectory(tmp_path_factory.mktemp("data"))
    LocalIssuer.create(data.issuer)
    return data


def minted(data: DataDirectory, *options: str) -> Result:
    return CliRunner().invoke(token, ["--data-dir", str(data.root), *options])


def test_a_token_lasts_as_long_as_it_is_told_to(data: DataDirectory) -> None:
    claims = jwt.get_unverified_claims(minted(data, "--user", "alice", "--ttl", "90").output.strip())
    assert claims["sub"] == "alice"
    assert claims["exp"] - claims["iat"] == 90


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--user", " "), "'--user': it is empty; name a user"),
        (("--user", "alice", "--ttl", "0"), "'--ttl': 0 is not in the range"),
        (("--user", "alice", "--ttl", "nan"), "'--ttl': 'nan' is not a valid integer"),
        (("--user", "alice", "--ttl", "9" * 30), "'--ttl': "),
    ],
)
def test_a_token_that_nobody_could_use_is_refused(data: DataDirectory, options: tuple[str, ...], named: str) -> None:
    result = minted(data, *options)
    assert result.exit_code == 2
    assert named in result.output


def test_the_embedded_stack_has_the_quotas_of_the_environment(
    data: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATRPC_QUOTA_TOKENS", "5000")
    settings = _settings("postgresql:///chatrpc", LocalIssuer.open(data.issuer))
    assert settings.quota.tokens == 5_000
