"""Documents: external texts as memory, their collections and their passages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class DocumentState(StrEnum):
    """How far a document has come."""

    UPLOADING = "uploading"
    PARSING = "parsing"
    EMBEDDING = "embedding"
    READY = "ready"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (DocumentState.READY, DocumentState.FAILED)


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What is known of a document before its bytes.

    Attributes:
        title: Empty for the title that the document gives itself.
        media_type: In lower case, with a `charset` parameter where one was given.
        size: In bytes.
        sha256: Digest of the bytes, which names the content.
        collection_id: None outside of any collection.
    """

    title: str
    media_type: str
    size: int
    sha256: bytes
    collection_id: UUID | None
    uri: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Document:
    """A document's own row.

    Attributes:
        owner_id: The user, or the shared owner of an issuer's shared collections.
        received: Bytes that have arrived of an upload.
        error_reason: Of a failed document, the name of a `Reason`.
        characters: Length of its text.
        pages: 0 where it has none.
        chunks, embedded_chunks: Passages in all, and those of them that can be found.
    """

    id: UUID
    owner_id: UUID
    collection_id: UUID | None
    title: str
    media_type: str
    uri: str
    labels: dict[str, str]
    size: int
    sha256: bytes
    state: DocumentState
    error_reason: str | None
    received: int
    characters: int
    pages: int
    chunks: int
    embedded_chunks: int
    created_at: datetime
    updated_at: datetime

    @property
    def uploaded(self) -> bool:
        """Whether all bytes have arrived."""
        return self.state is not DocumentState.UPLOADING


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents that belong together."""

    id: UUID
    owner_id: UUID
    title: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document that is embedded as one text. A document's chunks joined are its text.

    Attributes:
        number: From 0, in the order of the text.
        start, end: In characters of the document's text.
        page: Page on which it begins, from 1; 0 where the document has none.
        headings: Those above it, outermost first.
    """

    number: int
    start: int
    end: int
    page: int
    headings: tuple[str, ...]
    text: str
