"""What is remembered, and what of it a model sees."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chatrpc.settings.section import SettingsSection


class ContextSettings(SettingsSection):
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


class KnowledgeSettings(SettingsSection):
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
