"""Who may call, and how much they may use."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chatrpc.settings.section import HttpAddress, SettingsSection


class AuthSettings(SettingsSection):
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


class QuotaSettings(SettingsSection):
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
