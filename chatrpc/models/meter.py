"""What work costs that asks models somewhere below, whether it comes to its end or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID

from uuid_utils.compat import uuid7

from chatrpc.domain import Served, Usage
from chatrpc.models.chat.usage import MOST_COUNTED


@dataclass(slots=True)
class Meter:
    """Adds up what is noted while it is the current one.

    Attributes:
        id: What is metered is booked by it, so that it is booked once.
        model: The last language model that served.
        embedding_tokens: As an endpoint for embeddings counted them.
    """

    id: UUID = field(default_factory=uuid7)
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    embedding_tokens: int = 0

    @property
    def served(self) -> Served | None:
        """None where no language model was asked."""
        return None if self.model is None else Served(self.model, self.usage)


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter for all that is asked within the block, in tasks that it starts, too."""
    meter = Meter()
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)


def note(model: str, usage: Usage) -> None:
    """Tell the current meter, if there is one, what a language model served."""
    meter = _current.get()
    if meter is not None:
        meter.model, meter.usage = model, meter.usage + usage


def note_embedding(tokens: object) -> None:
    """Tell the current meter, if there is one, what an embedding endpoint counted; what cannot be is no count."""
    meter = _current.get()
    if meter is not None and isinstance(tokens, int) and 0 < tokens <= MOST_COUNTED:
        meter.embedding_tokens += tokens
