"""Settings: every variable stands in `.env.example`, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from chatrpc.errors import SettingsError
from chatrpc.settings import (
    SECTIONS,
    AuthSettings,
    ClientSettings,
    ContextSettings,
    DatabaseSettings,
    EdgeSettings,
    EmbedderSettings,
    LogSettings,
    ModelSettings,
    QuotaSettings,
    RedisSettings,
    ServerSettings,
    load,
)
from infra.env_example import TARGET, text

ROOT = Path(__file__).resolve().parents[1]
ENDPOINT = {"CHATRPC_MODEL_BASE_URL": "http://localhost/v1", "CHATRPC_MODEL_NAME": "a"}
ISSUER = {"CHATRPC_AUTH_ISSUER": "https://issuer.test", "CHATRPC_AUTH_JWKS_FILE": "/keys.json"}
# What a server cannot do without.
REQUIRED = {"CHATRPC_DATABASE_URL": "postgresql:///chatrpc"} | ISSUER


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHATRPC_")]:
        monkeypatch.delenv(name)


def refusal(section: type[BaseSettings], variables: dict[str, str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            load(section)
    return str(caught.value)


def test_the_example_is_what_the_settings_say() -> None:
    assert TARGET.read_text() == text(), "write it anew with `uv run python -m infra.env_example`"


def test_the_examples_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    defaults = [load(section) for section in SECTIONS]
    lines = [line.removeprefix("#") for line in TARGET.read_text().splitlines()]
    variables = dict(line.split("=", 1) for line in lines if line.startswith("CHATRPC_"))
    assert len(variables) == sum(len(section.model_fields) for section in SECTIONS)
    for name, value in variables.items():
        if name not in REQUIRED:
            monkeypatch.setenv(name, value)
    assert [load(section) for section in SECTIONS] == defaults


def test_what_the_example_leaves_open_is_what_must_be_set() -> None:
    uncommented = [line for line in TARGET.read_text().splitlines() if line and not line.startswith("#")]
    assert uncommented == ["CHATRPC_DATABASE_URL=", "CHATRPC_AUTH_ISSUER="]


@pytest.mark.parametrize(
    ("section", "variables", "sentence"),
    [
        (DatabaseSettings, {}, "CHATRPC_DATABASE_URL is not set."),
        (DatabaseSettings, {"CHATRPC_DATABASE_URL": ""}, "CHATRPC_DATABASE_URL is not set."),
        (
            QuotaSettings,
            {"CHATRPC_QUOTA_TOKENS": str(2**63)},
            "CHATRPC_QUOTA_TOKENS: Input should be less than 4611686018427387904.",
        ),
        (AuthSettings, {}, "CHATRPC_AUTH_ISSUER is not set."),
        (
            AuthSettings,
            {"CHATRPC_AUTH_ISSUER": "https://issuer.test"},
            "set exactly one of CHATRPC_AUTH_JWKS_URL and CHATRPC_AUTH_JWKS_FILE.",
        ),
        (
            AuthSettings,
            ISSUER | {"CHATRPC_AUTH_JWKS_URL": "https://issuer.test/keys"},
            "set exactly one of CHATRPC_AUTH_JWKS_URL and CHATRPC_AUTH_JWKS_FILE.",
        ),
        (
            ModelSettings,
            {"CHATRPC_MODEL_BASE_URL": "http://localhost/v1"},
            "CHATRPC_MODEL_BASE_URL needs CHATRPC_MODEL_NAME.",
        ),
        *(
            (
                ModelSettings,
                {name: "given"},
                "CHATRPC_MODEL_NAME and CHATRPC_MODEL_API_KEY need CHATRPC_MODEL_BASE_URL.",
            )
            for name in ("CHATRPC_MODEL_NAME", "CHATRPC_MODEL_API_KEY")
        ),
        *(
            (ModelSettings, ENDPOINT | {"CHATRPC_MODEL_FALLBACKS": value}, f"CHATRPC_MODEL_FALLBACKS: {sentence}")
            for value, sentence in (
                ("[{", "not JSON: Expecting property name enclosed in double quotes at character 3."),
                ('[{"base_url": "https://b.test/v1"}]', "0: 'name': Field required."),
                ('[{"name": "b", "key": "sk-x"}]', "0: 'key': Extra inputs are not permitted."),
                ('[{"name": "b", "base_url": "b.test"}]', "0: base_url must begin with http:// or https://."),
                (
                    '[{"name": "b", "base_url": "https://b.test/v1", "api_key_variable": "ABSENT"}]',
                    "0: api_key_variable names ABSENT, which is not set.",
                ),
                (
                    '[{"name": "b", "api_key": "sk-x"}]',
                    "0: a fallback without base_url has the key and the name of the main endpoint.",
                ),
            )
        ),
        (
            ModelSettings,
            {"CHATRPC_MODEL_FALLBACKS": '[{"name": "b"}]'},
            "CHATRPC_MODEL_FALLBACKS needs CHATRPC_MODEL_BASE_URL.",
        ),
        (
            ModelSettings,
            {"CHATRPC_MODEL_CONTEXT_WINDOW": "4096", "CHATRPC_MODEL_OUTPUT_RESERVE": "2049"},
            "CHATRPC_MODEL_OUTPUT_RESERVE must be at most half of CHATRPC_MODEL_CONTEXT_WINDOW.",
        ),
        *(
            (
                EmbedderSettings,
                {"CHATRPC_EMBEDDER_KIND": "openai"} | given,
                "CHATRPC_EMBEDDER_KIND=openai needs CHATRPC_EMBEDDER_BASE_URL, _MODEL and _DIMENSION.",
            )
            for given in (
                {"CHATRPC_EMBEDDER_MODEL": "m", "CHATRPC_EMBEDDER_DIMENSION": "8"},
                {"CHATRPC_EMBEDDER_BASE_URL": "http://localhost/v1", "CHATRPC_EMBEDDER_DIMENSION": "8"},
                {"CHATRPC_EMBEDDER_BASE_URL": "http://localhost/v1", "CHATRPC_EMBEDDER_MODEL": "m"},
            )
        ),
        (
            EmbedderSettings,
            {"CHATRPC_EMBEDDER_BASE_URL": "http://localhost/v1"},
            "CHATRPC_EMBEDDER_BASE_URL needs CHATRPC_EMBEDDER_KIND=openai.",
        ),
    ],
)
def test_what_is_missing_or_contradicts_is_named(
    section: type[BaseSettings], variables: dict[str, str], sentence: str
) -> None:
    assert refusal(section, variables) == sentence


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (ServerSettings, "CHATRPC_SERVER_PORT", "http"),
        (ServerSettings, "CHATRPC_SERVER_EMBEDDED_WORKER", "perhaps"),
        (ServerSettings, "CHATRPC_SERVER_HEARTBEAT", "inf"),
        (ContextSettings, "CHATRPC_CONTEXT_HOT_PATH", "1"),
        (EdgeSettings, "CHATRPC_EDGE_PORT", "70000"),
        (LogSettings, "CHATRPC_LOG_LEVEL", "loud"),
        (ModelSettings, "CHATRPC_MODEL_BASE_URL", "llm.example.com/v1"),
        (EmbedderSettings, "CHATRPC_EMBEDDER_BASE_URL", "llm.example.com/v1"),
        (RedisSettings, "CHATRPC_REDIS_URL", "redis.example.com:6379"),
        (RedisSettings, "CHATRPC_REDIS_URL", "http://redis.example.com"),
        (RedisSettings, "CHATRPC_REDIS_URL", "redis://"),
        (RedisSettings, "CHATRPC_REDIS_URL", "redis://redis.example.com:port"),
        (RedisSettings, "CHATRPC_REDIS_URL", "unix://"),
    ],
)
def test_a_malformed_value_is_one_sentence_that_names_its_variable(
    section: type[BaseSettings], name: str, value: str
) -> None:
    sentence = refusal(section, {name: value})
    assert sentence.startswith(f"{name}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "url", ["ftp://issuer.test/keys", "issuer.test/keys", "https://", "https://issuer.test:x/", "https://[::1/"]
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    variables = {"CHATRPC_AUTH_ISSUER": "https://issuer.test", "CHATRPC_AUTH_JWKS_URL": url}
    sentence = "CHATRPC_AUTH_JWKS_URL: write it as http://host:port/path or https://host:port/path."
    assert refusal(AuthSettings, variables) == sentence


@pytest.mark.parametrize(
    "url", ["redis://:password@redis.example.com:6379/0", "rediss://[::1]", "unix:///run/redis.sock?db=1"]
)
def test_redis_is_named_by_an_address_of_its_own_schemes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATRPC_REDIS_URL", url)
    assert load(RedisSettings).url == url


def test_a_refusal_shows_no_secret() -> None:
    assert "hunter2" not in refusal(RedisSettings, {"CHATRPC_REDIS_URL": "http://:hunter2@redis.example.com"})
    sentence = refusal(ModelSettings, {"CHATRPC_MODEL_API_KEY": "sk-very-secret"})
    assert "sk-very-secret" not in sentence


def test_a_fallbacks_key_can_stand_in_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = '[{"name": "b", "base_url": "https://b.test/v1", "api_key_variable": "SECOND_KEY"}]'
    for name, value in (ENDPOINT | {"SECOND_KEY": "sk-2", "CHATRPC_MODEL_FALLBACKS": fallback}).items():
        monkeypatch.setenv(name, value)
    [read] = load(ModelSettings).fallbacks
    assert read.api_key is not None
    assert read.api_key.get_secret_value() == "sk-2"
    assert "sk-2" not in repr(read)


def test_the_documents_name_only_variables_that_there_are() -> None:
    known = set(re.findall(r"^#?(CHATRPC_[A-Z_]+)=", text(), re.MULTILINE))
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        # `CHATRPC_EDGE_*` stands for a section.
        named = set(re.findall(r"CHATRPC_[A-Z_]+(?![A-Z_*])", document.read_text()))
        assert named <= known, document


def test_the_cognito_example_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    [_, section] = (ROOT / "docs" / "operations.md").read_text().split("### AWS Cognito\n")
    example = re.findall(r"^(CHATRPC_\w+)=(.*)$", section.partition("\n## ")[0], re.MULTILINE)
    for name, value in example:
        monkeypatch.setenv(name, value)
    auth = load(AuthSettings)
    assert auth.jwks_url == f"{auth.issuer}/.well-known/jwks.json"
    assert len(auth.client_ids) == 2
    assert auth.audience is None
    assert auth.act_as_scope == "chatrpc/chat.act_as"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ISSUER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CHATRPC_AUTH_CLIENT_IDS", "web, service,")
    monkeypatch.setenv("CHATRPC_EDGE_ALLOWED_ORIGINS", "https://a.test,https://b.test")
    assert load(AuthSettings).client_ids == ("web", "service")
    assert load(EdgeSettings).allowed_origins == ("https://a.test", "https://b.test")


def test_the_clients_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATRPC_TOKEN", "ey-secret")
    assert "ey-secret" not in repr(load(ClientSettings))
