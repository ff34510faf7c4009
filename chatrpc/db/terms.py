"""Terms as the database keeps them: by hash, in sparse vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pgvector import SparseVector

DIMENSION = 1_000_000_000
"""Length of a sparse vector at most, and so the number of different hashes."""
MOST_TERMS = 200
"""Different terms of a passage that are kept, the most frequent; an index entry holds not many more."""
MOST_QUERY_TERMS = 32
"""Terms of a query that are looked for."""
MOST_FREQUENT = 7
"""As often a passage counts as holding a term at most. BM25 hardly tells more apart, and it is what three bits hold."""
_TERMS_A_VECTOR = 8


def term_vector(terms: Mapping[str, int]) -> SparseVector:
    """How often a passage holds which terms."""
    kept = sorted(terms.items(), key=lambda item: -item[1])[:MOST_TERMS]
    held: dict[int, float] = {}
    for term, frequency in kept:
        place = _place(term)
        held[place] = min(MOST_FREQUENT, held.get(place, 0) + frequency)
    return SparseVector(held, DIMENSION)


def query_vectors(terms: Sequence[str]) -> list[SparseVector]:
    """The terms of a query, the first `MOST_QUERY_TERMS`, eight a vector: term i of a vector weighs 8^i.

    A product of one with a passage's vector is a number whose octal digits are the frequencies of the eight terms.
    Single precision, in which pgvector adds, holds all 24 bits of it.
    """
    places = [_place(term) for term in terms[:MOST_QUERY_TERMS]]
    # The same hash twice would carry over into the next digit.
    digits = {place: number for number, place in reversed(list(enumerate(places)))}
    vectors: list[dict[int, float]] = [{} for _ in range(0, len(places), _TERMS_A_VECTOR)]
    for place, number in digits.items():
        vectors[number // _TERMS_A_VECTOR][place] = float(8 ** (number % _TERMS_A_VECTOR))
    return [SparseVector(vector, DIMENSION) for vector in vectors]


def _place(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest()) % DIMENSION
