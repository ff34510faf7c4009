"""Terms as the database keeps them: by hash, in sparse vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pgvector import SparseVector

DIMENSION = 1_000_000_000
"""Length of a sparse vector at most, and so the number of different hashes."""
MOST_TERMS = 200
"""Different terms of a passage that are kept, the most frequent; an index entry holds not many more."""
MOST_QUERY_TERMS = 32
"""Terms of a query that are looked for."""
MOST_FREQUENT = 7
"""As often a passage counts as holding a term at most. BM25 hardly tells more apart, and it is what three bits hold."""


def term_vector(terms: Mapping[str, int]) -> SparseVector:
    """How often a passage holds which terms."""
    kept = sorted(terms.items(), key=lambda item: -item[1])[:MOST_TERMS]
    held: dict[int, float] = {}
    for term, frequency in kept:
        place = _place(term)
        held[place] = min(MOST_FREQUENT, held.get(place, 0) + frequency)
    return SparseVector(held, DIMENSION)


def query_places(terms: Sequence[str]) -> list[int]:
    """The places of a query's terms in such vectors, of the first `MOST_QUERY_TERMS`."""
    return [_place(term) for term in terms[:MOST_QUERY_TERMS]]


# Texts that come together share most of their terms. In about 3 MB.
@lru_cache(maxsize=16_384)
def _place(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest()) % DIMENSION
