"""Hybrid search over one user's units: what is found, as parallel arrays for a policy to score.

A unit is a message or a chunk of a document; it is embedded in one or more passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

MOST_TERMS = 32
"""Terms of a query that are matched; further ones are left out, so the most telling stand first."""
MOST_FREQUENT = 7
"""A term counts this often in one passage at most; BM25 hardly tells more apart."""


class Source(IntEnum):
    """What kind of unit it is, and so what its container is: a conversation, or a document."""

    MESSAGE = 0
    CHUNK = 1


class Tier(StrEnum):
    """How a search was done: an exact scan, a coarse scan with exact scores for the best, or an index of vectors."""

    EXACT = "exact"
    TWO_STAGE = "two_stage"
    INDEXED = "indexed"


@dataclass(frozen=True, slots=True)
class Container:
    """A conversation or a document."""

    id: UUID
    source: Source


@dataclass(frozen=True, slots=True)
class Pool:
    """What a search found to score, as parallel arrays over units, in no particular order.

    In the exact tier that is all that is in scope; in the others the nearest by either score and the units beside them.

    Attributes:
        unit: `(n,)`, V16, the id of a message or a chunk; `unit_id` gives it as a UUID.
        passage: `(n,)`, int16, number of the unit's passage nearest to the query.
        owner: `(n,)`, int8, 0 for the user's own, 1 for the shared owner's.
        container: `(n,)`, int32, index into `containers`.
        place: `(n,)`, int32, depth of a message, number of a chunk within its document.
        branch: `(n,)`, int32, 0 for chunks.
        cosine: `(n,)`, float32, of the nearest passage.
        length: `(n,)`, int32, in terms.
        created: `(n,)`, float64, seconds since the epoch.
        match_row, match_term, match_frequency: `(m,)`, one entry for each unit and term of the query that it holds: row
            in the arrays above, index of the term, how often (at most `MOST_FREQUENT` in a passage).
        document_frequency: `(t,)`, int32, by term of the query: units in scope that hold it, found or not.
        population: Units in scope.
        mean_length: Their length in terms, on average.
        dense_mean, dense_std: Of the cosines of all units in scope, estimated beyond the exact tier.
    """

    unit: NDArray[np.void]
    passage: NDArray[np.int16]
    owner: NDArray[np.int8]
    container: NDArray[np.int32]
    containers: tuple[Container, ...]
    place: NDArray[np.int32]
    branch: NDArray[np.int32]
    cosine: NDArray[np.float32]
    length: NDArray[np.int32]
    created: NDArray[np.float64]
    match_row: NDArray[np.int32]
    match_term: NDArray[np.int32]
    match_frequency: NDArray[np.int32]
    document_frequency: NDArray[np.int32]
    population: int
    mean_length: float
    dense_mean: float
    dense_std: float
    tier: Tier

    def __len__(self) -> int:
        return len(self.unit)

    def unit_id(self, row: int) -> UUID:
        return UUID(bytes=self.unit[row].tobytes())

    def source(self, row: int) -> Source:
        return self.containers[self.container[row]].source
