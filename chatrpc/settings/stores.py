"""Where state is kept."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from chatrpc.settings.section import SettingsSection


class DatabaseSettings(SettingsSection):
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


class RedisSettings(SettingsSection):
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
