"""Language models and embedding models."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chatrpc.settings.section import HttpAddress, SettingsSection


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


class ModelSettings(SettingsSection):
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


class EmbedderSettings(SettingsSection):
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
