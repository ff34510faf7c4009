"""Estimates the floor of an embedding model: the cosine that texts which have nothing to do with each other stay below.

Messages that were said far apart stand for unrelated texts, neighbours and the halves of one message for related ones.
Some of the first are related by chance and many of the second are not related at all, so the numbers say how far the
model tells the two apart on this text, not how good it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatrpc.domain import Role
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.ports import Embedder, Vectors
from chatrpc.tokens import estimate_tokens

SHARE = 0.95
"""Of the unrelated pairs, what the floor keeps out."""
FEWEST_MESSAGES = 50
"""Fewer make the estimate a matter of chance."""
MOST_MESSAGES = 2_000
"""More cost time and change little."""

_PAIRS = 20_000
_STRETCH = 10
_BATCH = 64
# Shorter halves of a message say too little to be related by.
_LEAST_TOKENS_TO_HALVE = 16


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the operator's text; those of one conversation follow each other."""

    conversation: int
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured.

    Attributes:
        messages: How many were embedded.
        unrelated, related: Cosines of the pairs, ascending.
        floor: Rounded to hundredths, 0 at least.
    """

    messages: int
    unrelated: NDArray[np.float32]
    related: NDArray[np.float32]
    floor: float

    @property
    def admitted(self) -> float:
        """Share of the related pairs that reach the floor."""
        return float(np.mean(self.related >= self.floor))


async def calibrate(embedder: Embedder, said: Sequence[Said]) -> Calibration:
    """Measure the floor on messages in the order in which they were said; the same ones give the same floor.

    A text that was said before counts once. Of very many messages, short stretches are taken from all over.

    Raises:
        ValueError: There are too few messages, or no related ones; the text says what is missing.
        Unavailable: The embedder cannot be reached.
    """
    distinct = list({each.text.strip(): each for each in reversed(said) if each.text.strip()}.values())[::-1]
    if len(distinct) < FEWEST_MESSAGES:
        raise ValueError(f"there are {len(distinct)} different messages, and it takes {FEWEST_MESSAGES} at least")
    places = _stretches(len(distinct))
    taken = [distinct[place] for place in places]
    room = embedder.space.max_tokens - TEMPLATE_TOKENS
    vectors = await _embed(embedder, [embedding_text(each.role, _parts(each.text, room)[0]) for each in taken])
    related = [_cosines(vectors[:-1], vectors[1:])[_neighbours(taken, places)]]
    halves = [(each.role, halves) for each in taken if len(halves := _halves(each.text, room)) > 1]
    if halves:
        sides = [await _embed(embedder, [embedding_text(role, both[side]) for role, both in halves]) for side in (0, 1)]
        related.append(_cosines(*sides))
    pairs = np.sort(np.concatenate(related))
    if not len(pairs):
        raise ValueError("there is nothing that belongs together, neither a long message nor two of one conversation")
    left, right = _far_apart(len(taken))
    unrelated = np.sort(_cosines(vectors[left], vectors[right]))
    floor = max(0.0, round(float(np.quantile(unrelated, SHARE)), 2))
    return Calibration(len(taken), unrelated, pairs, floor)


def _stretches(messages: int) -> NDArray[np.intp]:
    """The places of the messages that are taken: all, or stretches that begin at even distances."""
    if messages <= MOST_MESSAGES:
        return np.arange(messages)
    starts = np.linspace(0, messages - _STRETCH, MOST_MESSAGES // _STRETCH).astype(np.intp)
    return (starts[:, None] + np.arange(_STRETCH)).ravel()


def _neighbours(taken: Sequence[Said], places: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Of each message but the last, whether the one that follows it was said next in the same conversation."""
    conversations = np.array([each.conversation for each in taken])
    follows: NDArray[np.bool_] = (np.diff(places) == 1) & (np.diff(conversations) == 0)
    return follows


def _far_apart(messages: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of places at least a quarter of all messages apart."""
    random = np.random.default_rng(0)
    left = random.integers(0, messages, _PAIRS)
    apart = random.integers(messages // 4, messages - messages // 4, _PAIRS, endpoint=True)
    return left, (left + apart) % messages


def _halves(text: str, room: int) -> list[str]:
    tokens = estimate_tokens(text)
    return [] if tokens < _LEAST_TOKENS_TO_HALVE else _parts(text, min(room, tokens * 2 // 3))


def _parts(text: str, room: int) -> list[str]:
    return [text[start:end] for start, end in split_passages(text, room)]


async def _embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    batches = [await embedder.embed(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
    return np.concatenate(batches)


def _cosines(left: Vectors, right: Vectors) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = np.einsum("ij,ij->i", left, right)
    return cosines
