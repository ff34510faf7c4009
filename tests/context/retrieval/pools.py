"""Pools of made units, as a search returns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np

from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.search import Passage, Pool, Tier
from chatrpc.domain import Role

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Unit:
    """A message to be found; containers are numbered."""

    text: str
    cosine: float = 0.0
    container: int = 0
    place: int = 0
    created: float = NOW.timestamp()
    id: UUID = field(default_factory=uuid4)

    @property
    def passage(self) -> Passage:
        created_at = datetime.fromtimestamp(self.created, UTC)
        return Passage(self.id, UUID(int=self.container), Role.USER, self.text, created_at, None)


def in_order(*units: tuple[str, float]) -> list[Unit]:
    """Messages of one conversation, one after the other."""
    return [Unit(text, cosine, place=place) for place, (text, cosine) in enumerate(units, 1)]


def pool(units: Sequence[Unit], query: Sequence[str] = (), population: int | None = None) -> Pool:
    """All of a user's units; with `population`, some of so many."""
    held = [terms(unit.text) for unit in units]
    cosine = np.array([unit.cosine for unit in units], np.float32)
    length = np.array([each.total() for each in held], np.int32)
    matches = [
        (row, term, found[each]) for row, found in enumerate(held) for term, each in enumerate(query) if found[each]
    ]
    row, term, frequency = np.array(matches, np.intp).reshape(-1, 3).T
    return Pool(
        unit=np.frombuffer(b"".join(unit.id.bytes for unit in units), "V16"),
        passage=np.zeros(len(units), np.int16),
        owner=np.zeros(len(units), np.int8),
        container=np.frombuffer(b"".join(UUID(int=unit.container).bytes for unit in units), "V16"),
        place=np.array([unit.place for unit in units], np.int32),
        cosine=cosine,
        length=length,
        created=np.array([unit.created for unit in units], np.float64),
        match_row=row,
        match_term=term,
        match_frequency=frequency.astype(np.int32),
        document_frequency=np.bincount(term, minlength=len(query)).astype(np.int32),
        population=len(units) if population is None else population,
        mean_length=float(length.mean()) if len(units) else 0.0,
        dense_mean=float(cosine.mean(dtype=np.float64)) if len(units) else 0.0,
        dense_std=float(cosine.std(dtype=np.float64)) if len(units) else 0.0,
        tier=Tier.EXACT if population is None else Tier.TWO_STAGE,
    )
