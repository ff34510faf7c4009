"""Settings, read from the environment once, at start.

This is the only package that reads the environment. Each room takes its own section, so a signature shows
what a part depends on. `.env.example` lists every variable; a test keeps it complete.
"""

from pydantic_settings import BaseSettings

from chatrpc.settings.callers import AuthSettings, QuotaSettings
from chatrpc.settings.memory import ContextSettings, KnowledgeSettings
from chatrpc.settings.models import EmbedderSettings, FallbackSettings, ModelSettings, ProfileSettings
from chatrpc.settings.programs import ClientSettings, EdgeSettings, LogSettings, ServerSettings
from chatrpc.settings.section import load
from chatrpc.settings.stores import DatabaseSettings, RedisSettings

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

__all__ = [
    "SECTIONS",
    "AuthSettings",
    "ClientSettings",
    "ContextSettings",
    "DatabaseSettings",
    "EdgeSettings",
    "EmbedderSettings",
    "FallbackSettings",
    "KnowledgeSettings",
    "LogSettings",
    "ModelSettings",
    "ProfileSettings",
    "QuotaSettings",
    "RedisSettings",
    "ServerSettings",
    "load",
]
