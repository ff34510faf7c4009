"""Hybrid search over one user's units: what is found, as parallel arrays for a policy to score.

A unit is a message or a chunk of a document; it is embedded in one or more passages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, NewType
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector

from chatrpc.db.codec import parts_from_json
from chatrpc.db.engine import Statement
from chatrpc.db.terms import MOST_QUERY_TERMS, query_places
from chatrpc.domain import Citation, Role, text_of
from chatrpc.ports import Vector

EXACT_TO = 2_000
"""Passages up to which a search scans them all exactly; there it takes as long as a search in two stages."""
INDEXED_FROM = 30_000
"""Passages from which a user's own indexes serve, where `chatrpc index` has made them."""
NEAR = 128
"""Passages of either kind, near by vector and by words, that a first look chooses for an exact one. On LoCoMo's
questions among 10,000 messages, recall at 5 to 50 is within half a point for 96 to 200 of them; of 64, it is 0.9 points
less at 50."""

_SEARCH = (
    "search_units(%s, %s, %s, %s::integer[], {through}, %s, %s::smallint, %s::integer[], "
    "%s, %s::uuid[], %s::integer, %s::integer, %s::integer, %s::search_look)"
)
POOL = f"SELECT * FROM {_SEARCH.format(through='%s::integer')}"
# Of the row `h` of hot_path_row the summary tells through where the conversation is searched.
POOL_BEHIND_SUMMARY = _SEARCH.format(through="h.anchor_depth")
LOOK = (
    "SELECT look_by_words(%s, %s, %s, %s::integer[], %s::integer, %s::smallint, %s::integer[], "
    "%s, %s::uuid[], %s::integer, %s::integer)::text AS look"
)
TEXTS = "SELECT * FROM passage_texts(%s, %s, %s::smallint, %s::uuid[], %s::smallint[])"
# PostgreSQL counts microseconds from the beginning of 2000.
_EPOCH = 946_684_800.0
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
_SHIFTS = 3 * np.arange(8, dtype=np.int32)
# The columns of a pool, and how PostgreSQL sends their elements.
_COLUMNS = tuple(
    (name, np.dtype(kind))
    for name, kind in (
        ("units", "V16"), ("passages", ">i2"), ("owners", "i1"), ("containers", "V16"),
        ("places", ">i4"), ("cosines", ">f4"), ("lengths", ">i4"), ("moments", ">i8"),
    )
)  # fmt: skip


class Source(IntEnum):
    """What kind of unit it is, and so what its container is: a conversation, or a document."""

    MESSAGE = 0
    CHUNK = 1


def moment(at: datetime) -> float:
    """A time as in `Pool.created`, to the last bit."""
    return (at - _BEGINNING) // timedelta(microseconds=1) / 1e6 + _EPOCH


Look = NewType("Look", str)
"""What a search has found by words alone, as PostgreSQL writes it."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What to look for, and where.

    Attributes:
        space_id: The embedding space that is searched.
        terms: Of the question, the most telling first; `chatrpc.db.terms.MOST_QUERY_TERMS` are looked for.
        elsewhere: Whether to look into the active paths of the user's other conversations.
        collections: Collections whose documents to look into; None for all documents, without one too.
        shared_id: The owner of documents that all users may find, or None.
        exact_to, indexed_from: Sizes that decide the tier.
    """

    space_id: int
    terms: Sequence[str]
    elsewhere: bool
    collections: Sequence[UUID] | None = ()
    shared_id: UUID | None = None
    exact_to: int = EXACT_TO
    indexed_from: int = INDEXED_FROM

    def with_vector(self, vector: Vector) -> Query:
        return Query(**{each.name: getattr(self, each.name) for each in fields(Sought)}, vector=vector)


@dataclass(frozen=True, slots=True)
class Query(Sought):
    """With the question's unit vector."""

    vector: Vector = field(kw_only=True)


class Tier(StrEnum):
    """How a search was done: an exact scan, a coarse scan with exact scores for the best, or an index of vectors."""

    EXACT = "exact"
    TWO_STAGE = "two_stage"
    INDEXED = "indexed"


@dataclass(frozen=True, slots=True)
class Pool:
    """What a search found to score, as parallel arrays over units, in no particular order.

    In the exact tier that is all that is in scope; in the others the nearest by either score and the units beside them.

    Attributes:
        unit: `(n,)`, V16, the id of a message or a chunk; `unit_id` gives it as a UUID.
        passage: `(n,)`, int16, number of the unit's passage nearest to the query.
        owner: `(n,)`, int8, 0 for the user's own, 1 for the shared owner's.
        container: `(n,)`, V16, the id of the conversation or document that holds the unit.
        place: `(n,)`, int32, depth of a message, number of a chunk; a container holds one unit at each place.
        cosine: `(n,)`, float32, of the nearest passage.
        length: `(n,)`, int32, in terms.
        created: `(n,)`, float64, seconds since the epoch.
        match_row, match_term, match_frequency: `(m,)`, one entry for each unit and term of the query that it holds: row
            in the arrays above, index of the term, how often (at most
            `chatrpc.db.terms.MOST_FREQUENT` in a passage).
        document_frequency: `(t,)`, int32, by term of the query: units in scope that hold it, found or not.
        population: Units in scope.
        mean_length: Their length in terms, on average.
        dense_mean, dense_std: Of the cosines of all units in scope, estimated beyond the exact tier.
    """

    unit: NDArray[np.void]
    passage: NDArray[np.int16]
    owner: NDArray[np.int8]
    container: NDArray[np.void]
    place: NDArray[np.int32]
    cosine: NDArray[np.float32]
    length: NDArray[np.int32]
    created: NDArray[np.float64]
    match_row: NDArray[np.intp]
    match_term: NDArray[np.intp]
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


@dataclass(frozen=True, slots=True)
class Passage:
    """The text of a passage that was found.

    Attributes:
        unit: A message's id, or a chunk's.
        container: The conversation's id, or the document's.
        role: None where it is of a document.
        created_at: When it was said, or when the document was ingested.
        citation: None where it is of a message.
    """

    unit: UUID
    container: UUID
    role: Role | None
    text: str
    created_at: datetime
    citation: Citation | None


def look_call(user_id: UUID, conversation_id: UUID | None, sought: Sought, ends: str, through: int) -> Statement:
    """The statement that looks by words; `ends` as the function hot_path_row has it."""
    return LOOK, (
        user_id,
        sought.shared_id,
        conversation_id,
        ends,
        through,
        sought.space_id,
        array_text(query_places(sought.terms)),
        *_where(sought),
        sought.exact_to,
        NEAR,
    )


def pool_call(
    user_id: UUID, conversation_id: UUID | None, query: Query, ends: str, through: int, look: Look | None = None
) -> Statement:
    """The statement that finds a pool, of which `look` has found a part where it is given."""
    return POOL, pool_params(user_id, conversation_id, query, ends, through, look=look)


def pool_params(
    user_id: UUID, conversation_id: UUID | None, query: Query, ends: str, *through: int, look: Look | None = None
) -> tuple[object, ...]:
    """The parameters of the search, `through` where it is one of them."""
    return (
        user_id,
        query.shared_id,
        conversation_id,
        ends,
        *through,
        HalfVector(query.vector),
        query.space_id,
        array_text(query_places(query.terms)),
        *_where(query),
        query.exact_to,
        query.indexed_from,
        NEAR,
        look,
    )


def _where(sought: Sought) -> tuple[bool, str | None]:
    return sought.elsewhere, None if sought.collections is None else array_text(sought.collections)


def array_text(values: Iterable[object]) -> str:
    """As PostgreSQL writes it; the driver would take ten times as long to find out a list's type."""
    return "{" + ",".join(map(str, values)) + "}"


def pool_of(row: Mapping[str, Any], sought: Sought) -> Pool:
    """The pool that the function search_units packed."""
    columns = {name: np.frombuffer(row[name] or b"", kind) for name, kind in _COLUMNS}
    frequency = _frequencies(row["matches"], min(len(sought.terms), MOST_QUERY_TERMS), len(columns["units"]))
    length = columns["lengths"].astype(np.int32)
    if np.count_nonzero(columns["passages"]):
        order, first = _by_unit(columns["units"], columns["cosines"])
        columns = {name: column[order[first]] for name, column in columns.items()}
        length = np.add.reduceat(length[order], first)
        frequency = np.add.reduceat(frequency[:, order], first, axis=1)
    held = frequency != 0
    holding = held.sum(axis=1)
    [matches] = held.ravel().nonzero()
    match_term = np.arange(len(holding)).repeat(holding)
    # The operator gives the negative product, so that the nearest sort first.
    cosine = -columns["cosines"].astype(np.float32)
    return Pool(
        unit=columns["units"],
        passage=columns["passages"].astype(np.int16),
        owner=columns["owners"],
        container=columns["containers"],
        place=columns["places"].astype(np.int32),
        cosine=cosine,
        length=length,
        created=columns["moments"] / 1e6 + _EPOCH,
        match_row=matches - match_term * len(length),
        match_term=match_term,
        match_frequency=frequency.ravel()[matches],
        **_of_all(row, cosine, length, holding),
    )


def texts_call(user_id: UUID, sought: Sought, pool: Pool, rows: Sequence[int]) -> Statement:
    """The statement that reads the texts of rows of a pool."""
    chosen = list(rows)
    units = pool.unit[chosen].tobytes().hex(",", 16)
    passages = array_text(pool.passage[chosen].tolist())
    return TEXTS, (user_id, sought.shared_id, sought.space_id, f"{{{units}}}", passages)


def passage_of(row: Mapping[str, Any], *, shared: bool) -> Passage:
    """Args: shared: Whether it is the shared owner's."""
    text, role, citation = row["text"], None, None
    if row["role"] is not None:
        said = text_of(parts_from_json(row["parts"]))
        text, role = said[row["span_start"] : row["span_end"]], Role(row["role"])
    else:
        citation = Citation(
            document_id=row["container"],
            collection_id=row["collection"],
            title=row["title"],
            headings=tuple(row["headings"]),
            start=row["span_start"],
            end=row["span_end"],
            page=row["page"],
            shared=shared,
        )
    return Passage(row["unit"], row["container"], role, text, row["created_at"], citation)


def _of_all(
    row: Mapping[str, Any], cosine: NDArray[np.float32], length: NDArray[np.int32], holding: NDArray[np.intp]
) -> dict[str, Any]:
    """What is said of all units in scope: in the exact tier they are all here.

    Args:
        holding: By term: units here that hold it.
    """
    tier, found = Tier(row["tier"]), len(cosine)
    if tier is Tier.EXACT:
        # Not `cosine.std()`, which would find out the mean again.
        mean = cosine.sum() / max(found, 1)
        return {
            "tier": tier,
            "population": found,
            "mean_length": int(length.sum()) / max(found, 1),
            "dense_mean": float(mean),
            "dense_std": float(np.sqrt(np.square(cosine - mean).sum() / max(found, 1))),
            "document_frequency": holding.astype(np.int32),
        }
    held = np.asarray(row["document_frequency"], np.int32)[: len(holding)]
    return {
        "tier": tier,
        # Estimates are not to contradict what was found.
        "population": max(row["population"], found, int(held.max(initial=0))),
        "mean_length": row["mean_length"],
        "dense_mean": row["dense_mean"],
        "dense_std": row["dense_std"],
        "document_frequency": held,
    }


def _frequencies(packed: Sequence[bytes | None], terms: int, rows: int) -> NDArray[np.int32]:
    """How often each row holds each term, `(terms, rows)`, from the products with the function term_digits' vectors."""
    used = [each or bytes(4 * rows) for each in packed[: -(-terms // len(_SHIFTS))]]
    products = -np.frombuffer(b"".join(used), ">f4").astype(np.int32)
    digits = (products.reshape(len(used), 1, rows) >> _SHIFTS[:, None]) & 7
    return digits.reshape(len(used) * len(_SHIFTS), rows)[:terms]


def _by_unit(unit: NDArray[np.void], product: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of passages: their order by units, each unit's nearest first, and where each unit begins in it."""
    high, low = unit.view(">u8").reshape(-1, 2).T
    order = np.lexsort((product, low, high))
    return order, np.flatnonzero(np.concatenate(([True], unit[order][1:] != unit[order][:-1])))
