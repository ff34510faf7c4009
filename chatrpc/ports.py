"""Ports: the places where chatrpc has more than one real implementation to choose from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatrpc.domain import (
    Fact,
    FactKind,
    FinishReason,
    Message,
    PromptMessage,
    Sampling,
    Tool,
    ToolChoice,
    Usage,
)

Vectors = NDArray[np.float32]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Vectors are comparable only within one space.

    Attributes:
        name: For people, such as `all-MiniLM-L6-v2/onnx-fp32`.
        fingerprint: Hex digest over weights, precision, pooling and text template; the space's identity.
        dimension: Length of a vector.
        floor: The cosine that unrelated texts stay below, calibrated for this model: below it nearness tells nothing.
        max_tokens: Longer texts are cut by the model; split them before.
    """

    name: str
    fingerprint: str
    dimension: int
    floor: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingCost:
    """What it took to make vectors, in tokens of the model; booked with them."""

    model: str
    tokens: int
    estimated: bool


class Embedder(Protocol):
    """Turns text into unit vectors. Safe to call from many tasks at once; it batches them."""

    @property
    def space(self) -> EmbeddingSpace: ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts; shape `(len(texts), dimension)`, float32, each row of length 1.

        Raises:
            Unavailable: The embedder cannot be reached.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a language model is asked.

    Attributes:
        model: Name of the model; None takes the implementation's default.
        max_output_tokens: Never more than the budget's output reserve.
        tools: What it may call; an implementation that cannot call tools answers as if there were none.
        response_schema: JSON Schema of the text as text. It is asked for, not checked.
    """

    prompt: tuple[PromptMessage, ...]
    model: str | None
    sampling: Sampling
    max_output_tokens: int
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_schema: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A further piece of the reply; never empty, and without U+0000, which PostgreSQL cannot store."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model calls a tool; `arguments` is JSON text as the model wrote it, unchecked, without U+0000."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ModelFinished:
    """The last event of a stream that ended by itself."""

    reason: FinishReason
    model: str
    usage: Usage


ModelEvent = TextDelta | ToolCalled | ModelFinished


class ChatModel(Protocol):
    """A language model that streams."""

    def model_name(self, requested: str | None) -> str:
        """Name of the model that would answer a request for `requested`."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Stream one reply: text deltas, then the tool calls, then one ModelFinished. Closing the generator, or
        cancelling the task that iterates it, closes the provider's request at once.

        Raises:
            Unavailable: The endpoint cannot be reached, is overloaded, went silent or cut the stream.
            ModelRejected: The endpoint refuses the request for good.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Upsert:
    """A fact that is new, or takes the place of the one with its key.

    Attributes:
        sequence: Number of the message that says so; None where the summariser named none.
    """

    key: str
    kind: FactKind
    text: str
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Retract:
    """A fact that no longer holds, why, and the number of the message that says so."""

    key: str
    reason: str
    sequence: int | None = None


FactChange = Upsert | Retract


@dataclass(frozen=True, slots=True)
class Folding:
    """What a summariser makes of a batch: the whole new narrative, and the changes of the facts. A fact that no change
    names stays as it is, so forgetting one takes saying so."""

    narrative: str
    changes: tuple[FactChange, ...]


class Summarizer(Protocol):
    """Folds messages into a rolling summary. It proposes; `chatrpc.models.summary.facts` applies."""

    @property
    def name(self) -> str: ...

    @property
    def batch_tokens(self) -> int:
        """Tokens of messages that one fold reads whole; of more, each message is cut."""
        ...

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        """Fold messages into what came before them.

        Args:
            narrative: The old one; empty before the first fold.
            max_tokens: Of the new narrative at most.

        Raises:
            SummaryRefused: The output is of no use; the old summary stays.
            Unavailable, ModelRejected: As ChatModel.
        """
        ...

    async def merge(self, facts: Sequence[Fact], max_tokens: int) -> tuple[FactChange, ...]:
        """Changes that say the same in fewer facts, of the same keys, of `max_tokens` at best. Raises as `fold`."""
        ...
