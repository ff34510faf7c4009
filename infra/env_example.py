"""Writes `.env.example` from the settings: `uv run python -m infra.env_example`."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from chatrpc.settings import SECTIONS

TARGET = Path(__file__).resolve().parents[1] / ".env.example"

HEADER = """\
# Every variable that chatrpc reads, with its default. Written by `uv run python -m infra.env_example`.
#
# A variable that is absent or empty takes its default; those without a comment sign have none and must be set.
# chatrpc reads the environment and no file: give a copy of this one to `docker run --env-file`, systemd's
# EnvironmentFile or Kubernetes, or in a shell `set -a; . ./.env; set +a`.
"""


def text() -> str:
    """The whole file."""
    return "\n".join((HEADER, *map(_section, SECTIONS)))


def _section(section: type[BaseSettings]) -> str:
    prefix = section.model_config.get("env_prefix", "")
    variables = (_variable(f"{prefix}{name.upper()}", field) for name, field in section.model_fields.items())
    return "\n".join((_comment(f"--- {inspect.getdoc(section)} ---"), *variables))


def _variable(name: str, field: FieldInfo) -> str:
    sign = "" if field.is_required() else "#"
    return f"{_comment(field.description or '')}{sign}{name}={_value(field)}\n"


def _value(field: FieldInfo) -> str:
    """The default as it would be written; nothing where there is none, or where it is the machine's."""
    if field.is_required() or field.default_factory is not None or field.default is None:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def _comment(words: str) -> str:
    return textwrap.fill(words, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
