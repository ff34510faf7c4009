"""Settings, read from the environment once, at start.

This is the only module that reads the environment. Each room takes its own section, so a signature shows
what a part depends on. `.env.example` lists every variable; a test keeps it complete.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chatrpc.errors import SettingsError


def _http_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # The port is no number, or the brackets of an IPv6 address do not match.
        named = False
    if not named:
        raise ValueError("write it as http://host:port/path or https://host:port/path")
    return value


HttpAddress = Annotated[str, AfterValidator(_http_address)]


class _Section(BaseSettings):
    """An empty variable counts as absent: compose files and `--env-file` leave one where nothing is given."""

    model_config = SettingsConfigDict(env_ignore_empty=True, allow_inf_nan=False)


class DatabaseSettings(_Section):
    """PostgreSQL 16 or later with pgvector 0.8 or later."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_DATABASE_")

    url: str = Field(description="libpq URL of the database, as the login role of the server.")
    migration_url: str | None = Field(
        default=None,
        description="libpq URL of a role that owns the schema; the database's own URL where absent.",
    )
    role: str = Field(
        default="chatrpc_server",
        description="Role taken after login; row-level security binds it. Migrations create it.",
    )
    pool_size: int = Field(default=10, ge=1, le=500, description="Connections that one process opens at most.")
    connect_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a connection of the pool.")


class AuthSettings(_Section):
    """Who may call: one issuer of RS256 or ES256 tokens and where its keys stand."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_AUTH_")

    issuer: str = Field(min_length=1, description="The `iss` claim that tokens must bear.")
    jwks_url: HttpAddress | None = Field(default=None, description="HTTP(S) address of the issuer's JSON Web Key Set.")
    jwks_file: str | None = Field(default=None, description="Path of a JSON Web Key Set, instead of an address.")
    audience: str | None = Field(default=None, description="The `aud` claim that tokens must bear, if any.")
    client_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated `client_id` claims that are accepted (AWS Cognito's access tokens have no `aud`).",
    )
    act_as_scope: str = Field(
        default="chat.act_as",
        min_length=1,
        description="Scope with which a service acts for users; AWS Cognito writes it as resource-server/chat.act_as.",
    )
    knowledge_scope: str = Field(
        default="knowledge.write",
        min_length=1,
        description="Scope with which a service writes shared collections; AWS Cognito writes it as "
        "resource-server/knowledge.write.",
    )
    jwks_refresh: float = Field(default=300.0, gt=0, description="Seconds after which the key set is fetched anew.")

    @model_validator(mode="before")
    @classmethod
    def _split_client_ids(cls, values: dict[str, object]) -> dict[str, object]:
        ids = values.get("client_ids")
        if isinstance(ids, str):
            values["client_ids"] = tuple(part.strip() for part in ids.split(",") if part.strip())
        return values

    @model_validator(mode="after")
    def _one_key_source(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("set exactly one of CHATRPC_AUTH_JWKS_URL and CHATRPC_AUTH_JWKS_FILE")
        return self


class ProfileSettings(BaseModel):
    """What an operator says of one model, or of all whose name matches a pattern; None leaves what is known of it.

    Attributes:
        context_window: Tokens of prompt and reply together.
        output_reserve: Tokens of it kept for the reply.
        tokenizer: Path of the model's `tokenizer.json`, as Hugging Face has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_window: int | None = Field(default=None, ge=1_024)
    output_reserve: int | None = Field(default=None, ge=64)
    tokenizer: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.context_window and self.output_reserve and self.output_reserve > self.context_window // 2:
            raise ValueError("an output_reserve must be at most half of its context_window")
        return self


class FallbackSettings(BaseModel):
    """An endpoint, or another model of the same endpoint, that answers when those before it cannot.

    Attributes:
        base_url: Of an OpenAI-compatible API; None for another model of the main endpoint, with its key.
        api_key: The endpoint's key.
        api_key_variable: Environment variable that holds the key, instead.
        name: The model that answers.
        models: The models that answer for requested ones, where `name` shall not answer for all.
        label: The endpoint's name for people; its host where absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = None
    api_key: SecretStr | None = None
    api_key_variable: str | None = None
    name: str = Field(min_length=1)
    models: dict[str, str] = Field(default_factory=dict)
    label: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read_key(cls, values: Any) -> Any:
        variable = values.get("api_key_variable") if isinstance(values, dict) else None
        if not isinstance(variable, str):
            return values
        if values.get("api_key") is not None:
            raise ValueError("give a fallback api_key or api_key_variable, not both")
        if not os.environ.get(variable):
            raise ValueError(f"api_key_variable names {variable}, which is not set")
        return {**values, "api_key": os.environ[variable]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base_url is None and (self.api_key is not None or self.label is not None):
            raise ValueError("a fallback without base_url has the key and the name of the main endpoint")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://")
        return self


class ModelSettings(_Section):
    """The language model: any OpenAI-compatible endpoint; without one, the offline model answers."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_MODEL_")

    base_url: HttpAddress | None = Field(default=None, description="Base URL of an OpenAI-compatible API.")
    api_key: SecretStr | None = Field(default=None, description="Key for it; some local servers need none.")
    name: str | None = Field(default=None, description="Model that answers where a conversation names none.")
    summary_name: str | None = Field(default=None, description="Model that writes summaries; `name` where absent.")
    connect_timeout: float = Field(default=5.0, gt=0, description="Seconds to connect.")
    first_token_timeout: float = Field(default=60.0, gt=0, description="Seconds until the first token.")
    token_timeout: float = Field(default=30.0, gt=0, description="Seconds between two tokens.")
    max_retries: int = Field(default=2, ge=0, le=10, description="Retries before the first token, never after it.")
    breaker_failures: int = Field(
        default=5, ge=1, le=1_000, description="Failures of an endpoint in a row after which it is left alone."
    )
    breaker_pause: float = Field(
        default=15.0, gt=0, description="Seconds for which it is; then one request tries whether it answers again."
    )
    fallbacks: Annotated[tuple[FallbackSettings, ...], NoDecode] = Field(
        default=(),
        description="JSON list of who answers when the endpoint cannot, in this order; `models` maps requested names: "
        '[{"base_url": "https://host/v1", "api_key_variable": "KEY_2", "name": "small", "models": {"big": "large"}}].',
    )
    tool_rounds: int = Field(
        default=8, ge=1, le=100, description="Rounds of tool calls in one reply; the answer after the last has none."
    )
    tool_timeout: float = Field(
        default=60.0, gt=0, le=3_600, description="Seconds in which the results of a round of tool calls must come."
    )
    context_window: int = Field(
        default=16_384,
        ge=1_024,
        description="Tokens, output included, that a model takes of which nothing else is known, and that a server of "
        "your own gives to open weights.",
    )
    output_reserve: int = Field(
        default=2_048, ge=64, description="Tokens of such a window kept for the reply; no reply gets longer."
    )
    profiles: Annotated[dict[str, ProfileSettings], NoDecode] = Field(
        default_factory=dict,
        description="JSON object of what models take, by name or pattern, over what chatrpc knows of them: "
        '{"my-model*": {"context_window": 32768, "output_reserve": 4096, "tokenizer": "/models/mine/tokenizer.json"}}.',
    )

    @field_validator("profiles", "fallbacks", mode="before")
    @classmethod
    def _parse_json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base_url is not None and self.name is None:
            raise ValueError("CHATRPC_MODEL_BASE_URL needs CHATRPC_MODEL_NAME")
        if self.base_url is None and (self.name is not None or self.api_key is not None):
            raise ValueError("CHATRPC_MODEL_NAME and CHATRPC_MODEL_API_KEY need CHATRPC_MODEL_BASE_URL")
        if self.base_url is None and self.fallbacks:
            raise ValueError("CHATRPC_MODEL_FALLBACKS needs CHATRPC_MODEL_BASE_URL")
        if self.output_reserve > self.context_window // 2:
            raise ValueError("CHATRPC_MODEL_OUTPUT_RESERVE must be at most half of CHATRPC_MODEL_CONTEXT_WINDOW")
        return self


def _user_cache_dir() -> str:
    """By the XDG base directory specification, which has relative paths ignored."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "chatrpc")


class EmbedderSettings(_Section):
    """Which embedding model, and how it runs."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_EMBEDDER_")

    kind: Literal["onnx", "sentence-transformers", "openai"] = Field(
        default="onnx", description="onnx (no PyTorch), sentence-transformers (the extra), or openai (an endpoint)."
    )
    model: str | None = Field(
        default=None,
        description="Folder of a BERT-family Sentence Transformers model (onnx), or a model name; "
        "the packaged all-MiniLM-L6-v2 where absent.",
    )
    base_url: HttpAddress | None = Field(default=None, description="Base URL of an OpenAI-compatible embeddings API.")
    api_key: SecretStr | None = Field(default=None, description="Key for it.")
    dimension: int | None = Field(default=None, ge=8, le=4_000, description="Vector length of an `openai` embedder.")
    floor: float | None = Field(
        default=None, ge=0, le=1, description="Lowest cosine that may enter a context; the model's own where absent."
    )
    cache_dir: str = Field(
        default_factory=_user_cache_dir, description="Where the ONNX graph is kept; the user's cache where absent."
    )
    threads: int = Field(default=1, ge=1, le=64, description="CPU threads of one inference.")
    max_batch: int = Field(default=32, ge=1, le=512, description="Texts embedded in one inference at most.")
    bulk_threads: int = Field(
        default=2,
        ge=1,
        le=64,
        description="CPU threads that embed documents, at a lower priority than all else; of the kind onnx.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "openai" and (self.base_url is None or self.model is None or self.dimension is None):
            raise ValueError("CHATRPC_EMBEDDER_KIND=openai needs CHATRPC_EMBEDDER_BASE_URL, _MODEL and _DIMENSION")
        if self.kind != "openai" and self.base_url is not None:
            raise ValueError("CHATRPC_EMBEDDER_BASE_URL needs CHATRPC_EMBEDDER_KIND=openai")
        return self


class ContextSettings(_Section):
    """What the model sees."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_CONTEXT_")

    hot_path: int = Field(default=10, ge=2, le=1_000, description="K: the newest messages that always stay verbatim.")
    fold: int = Field(
        default=40, ge=2, le=1_000, description="B: messages folded into the summary in one step at most."
    )
    summary_tokens: int = Field(
        default=1_024,
        ge=128,
        le=8_192,
        description="Length of a summary at most, in tokens; durable facts may take three fifths of it.",
    )
    hits: int = Field(default=8, ge=0, le=100, description="Retrieved items that enter a context at most.")
    hits_tokens: int = Field(
        default=800,
        ge=64,
        le=100_000,
        description="Tokens that they may cost together; they stand where no prompt cache serves them.",
    )
    cache_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1024 * 1024, description="Memory of the hot paths of one process."
    )
    retrieval_timeout: float = Field(
        default=2.0, gt=0, description="Seconds after which a reply goes on without retrieved items."
    )
    temporary_age: float = Field(
        default=86_400.0, gt=0, description="Seconds after its last change until a temporary conversation is deleted."
    )


class KnowledgeSettings(_Section):
    """Documents. Parsing runs in a process of its own with these limits."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_KNOWLEDGE_")

    max_bytes: int = Field(
        default=20 * 1024 * 1024,
        ge=1,
        le=512 * 1024 * 1024,
        description="Bytes of a document at most, and characters of its text.",
    )
    parse_seconds: int = Field(default=60, ge=1, le=3_600, description="CPU time of parsing one document at most.")
    parse_memory: int = Field(
        default=512 * 1024 * 1024, ge=64 * 1024 * 1024, description="Bytes of memory of parsing one document at most."
    )


class ServerSettings(_Section):
    """The gRPC server."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_SERVER_")

    host: str = Field(default="0.0.0.0", description="Address to listen on.")
    port: int = Field(default=50_051, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    coalesce_ms: int = Field(default=40, ge=0, le=1_000, description="Window in which tokens share one delta event.")
    max_message_bytes: int = Field(
        default=1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024, description="Largest request that is read."
    )
    max_streams: int = Field(default=100, ge=1, le=10_000, description="Concurrent calls on one connection at most.")
    max_turns_per_stream: int = Field(default=16, ge=1, le=1_000, description="Running turns on one Chat stream.")
    heartbeat: float = Field(default=20.0, gt=0, description="Seconds of silence after which a stream sends a pong.")
    drain_delay: float = Field(
        default=5.0,
        ge=0,
        description="Seconds after SIGTERM in which calls are still answered while health says NOT_SERVING, so that "
        "Envoy learns of it first.",
    )
    drain_grace: float = Field(default=30.0, ge=0, description="Seconds that running replies get after SIGTERM.")
    max_turns_per_user: int = Field(
        default=100, ge=1, le=100_000, description="Unfinished replies of one user, in all conversations together."
    )
    max_queue: int = Field(
        default=8, ge=0, le=1_000, description="Messages that wait for the replies before them in one conversation."
    )
    max_forked_messages: int = Field(
        default=100_000,
        ge=1,
        description="Messages of one user that forks copy in each server at once; they come back within an hour.",
    )
    max_watches_per_user: int = Field(
        default=100, ge=1, le=100_000, description="Conversations that one user watches on each server at a time."
    )
    target_delay_ms: int = Field(
        default=50,
        ge=0,
        le=1_000,
        description="Milliseconds that a new turn waits to be begun at most. If one would wait longer, the server is "
        "overloaded and refuses new turns, so that those that run stay quick. 0 refuses none.",
    )
    idle_limit: float = Field(
        default=3_600.0,
        gt=0,
        description="Seconds after which a Chat stream ends on which the client said nothing and no reply ran.",
    )
    max_turn_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Seconds that a language model has for a reply; then it ends with the text that it has.",
    )
    takeover: Literal["restart", "interrupt"] = Field(
        default="restart",
        description="What becomes of a reply whose process died: generated anew, or ended with the text that it has. "
        "A reply without text is always generated anew.",
    )
    embedded_worker: bool = Field(default=True, description="Whether `chatrpc serve` also does the background work.")


class QuotaSettings(_Section):
    """What one user may use. The windows are those of the calendar, in UTC. Usage is booked with and without limits."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_QUOTA_")

    window: Literal["hour", "day", "month"] = Field(default="day", description="The time that the limits are for.")
    tokens: int | None = Field(
        default=None,
        ge=0,
        lt=2**62,
        description="Tokens of prompts and completions in it, those of summaries included and those of embeddings not; "
        "not limited where absent.",
    )
    turns: int | None = Field(default=None, ge=0, lt=2**62, description="Replies in it; not limited where absent.")
    claim: str = Field(
        default="chatrpc_quota",
        min_length=1,
        description="Claim by which a token sets other limits than these, as an object or as its JSON: "
        '{"tokens": 100000, "turns": null, "window": "day"}; what it leaves out is as set here, null is no limit.',
    )


class RedisSettings(_Section):
    """Redis 6.2 or later, which several server processes need to share replies; one process does without."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_REDIS_")

    url: str | None = Field(
        default=None,
        description="redis://, rediss:// or unix:// URL, the same for all server processes of a database. Without it, "
        "a running reply can be followed and stopped in its own process alone.",
    )

    @field_validator("url")
    @classmethod
    def _names_redis(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            named = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and parts.port != 0
        except ValueError:
            # The port is no number, or the brackets of an IPv6 address do not match.
            named = False
        if not named or parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("write it as redis://:password@host:6379/0, or with rediss:// or unix:///path")
        return value


class EdgeSettings(_Section):
    """Envoy, in front of the server."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_EDGE_")

    host: str = Field(default="0.0.0.0", description="Address that Envoy listens on.")
    port: int = Field(default=8_080, ge=1, le=65_535, description="Port that Envoy listens on.")
    admin_port: int = Field(default=9_901, ge=1, le=65_535, description="Envoy's admin port, on loopback only.")
    upstream_host: str = Field(default="127.0.0.1", description="Host name of the chatrpc servers.")
    upstream_port: int = Field(default=50_051, ge=1, le=65_535, description="Port of the chatrpc servers.")
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Comma-separated origins of pages that may call by gRPC-web; `*` allows any."
    )
    requests_per_second: int = Field(default=2_000, ge=1, description="Calls per second that one Envoy admits.")

    @model_validator(mode="before")
    @classmethod
    def _split_origins(cls, values: dict[str, object]) -> dict[str, object]:
        origins = values.get("allowed_origins")
        if isinstance(origins, str):
            values["allowed_origins"] = tuple(part.strip() for part in origins.split(",") if part.strip())
        return values


class LogSettings(_Section):
    """Structured logs on standard error."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_LOG_")

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level shown.")
    format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for people.")


class ClientSettings(_Section):
    """The terminal client, `chatrpc chat`."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_")

    endpoint: str = Field(default="http://127.0.0.1:8080", description="Server to talk to, where --endpoint is absent.")
    token: SecretStr | None = Field(default=None, description="Access token for it, where --token is absent.")


SECTIONS: tuple[type[BaseSettings], ...] = (
    DatabaseSettings,
    AuthSettings,
    ModelSettings,
    EmbedderSettings,
    ContextSettings,
    KnowledgeSettings,
    ServerSettings,
    QuotaSettings,
    RedisSettings,
    EdgeSettings,
    LogSettings,
    ClientSettings,
)

Section = TypeVar("Section", bound=BaseSettings)


def load(section: type[Section]) -> Section:
    """Read one section from the environment.

    Raises:
        SettingsError: A variable is missing, malformed or contradicts another; the sentence names it.
    """
    try:
        return section()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        prefix = section.model_config.get("env_prefix", "")
        name = "".join(str(part) for part in problem["loc"][:1])
        if problem["type"] == "missing" and len(problem["loc"]) == 1:
            raise SettingsError(f"{prefix}{name.upper()} is not set.") from None
        if not name:
            raise SettingsError(problem["msg"].removeprefix("Value error, ") + ".") from None
        place = "".join(f" {part!r}:" for part in problem["loc"][1:])
        problem_text = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{prefix}{name.upper()}:{place} {problem_text}.") from None
