"""Prompts as the assembler makes them, for tests that start at the model."""

from __future__ import annotations

from uuid import UUID

from chatrpc.domain import PromptMessage, Sampling, Section
from chatrpc.ports import ModelRequest


def model_request(
    query: str,
    *,
    system: str = "Be brief.",
    summary: str | None = None,
    retrieved: tuple[tuple[UUID, str], ...] = (),
    verbatim: tuple[tuple[UUID, str, str], ...] = (),
    model: str | None = None,
    sampling: Sampling | None = None,
    max_output_tokens: int = 500,
) -> ModelRequest:
    """A request whose sections hold the given texts; `verbatim` as (id, role, text)."""
    prompt = [PromptMessage("system", system, Section.SYSTEM)]
    if summary is not None:
        prompt.append(PromptMessage("system", summary, Section.SUMMARY))
    prompt += [PromptMessage(role, text, Section.VERBATIM, (each,)) for each, role, text in verbatim]
    prompt += [PromptMessage("system", text, Section.RETRIEVED, (each,)) for each, text in retrieved]
    prompt.append(PromptMessage("user", query, Section.QUERY, (UUID(int=999),)))
    return ModelRequest(tuple(prompt), model, sampling or Sampling(), max_output_tokens)
