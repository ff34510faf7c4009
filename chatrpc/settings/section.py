"""What all sections have in common, and how one is read."""

from __future__ import annotations

from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

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


class SettingsSection(BaseSettings):
    """An empty variable counts as absent: compose files and `--env-file` leave one where nothing is given."""

    model_config = SettingsConfigDict(env_ignore_empty=True, allow_inf_nan=False)


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
