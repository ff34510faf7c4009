"""The server, Envoy in front of it, the terminal client, and their logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chatrpc.settings.section import SettingsSection


class ServerSettings(SettingsSection):
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


class EdgeSettings(SettingsSection):
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


class LogSettings(SettingsSection):
    """Structured logs on standard error."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_LOG_")

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level shown.")
    format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for people.")


class ClientSettings(SettingsSection):
    """The terminal client, `chatrpc chat`."""

    model_config = SettingsConfigDict(env_prefix="CHATRPC_")

    endpoint: str = Field(default="http://127.0.0.1:8080", description="Server to talk to, where --endpoint is absent.")
    token: SecretStr | None = Field(default=None, description="Access token for it, where --token is absent.")
