"""The schema as SQLAlchemy models; the migrations create it, and a test holds the two equal.

Every key begins with `user_id`, so that one user's work touches one partition, and so that the schema is ready to be
distributed by `user_id`. `messages`, `embeddings` and `usage_entries`, among others, are hash partitioned; the
partitions are made by the migrations.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from pgvector.sqlalchemy import HALFVEC, SPARSEVEC
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    Uuid,
)
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import BIT, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Columns of embeddings that its primary key includes.
LOOKED_AT_FIRST = ["conversation_id", "branch", "depth", "active", "source", "collection_id", "code"]


class Base(DeclarativeBase):
    """Base of all models."""

    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[int]: ARRAY(Integer),
        list[str]: ARRAY(Text),
    }


class ConversationRow(Base):
    """A conversation.

    `lineage` holds the older segments of the active path, flattened as branch, last depth, branch, last depth, ...; the
    path's last segment is `(head_branch, head_depth)`. While `pending_replies` is 0, an append need not look at the
    reply before it. `context_tokens` is what the newest prompt and its reply came to, for the next reservation.
    `previous_head_id` is the head that the newest append found, left for the append itself to read. No index
    covers a column that an append changes, so that the update stays within its page (HOT).
    """

    __tablename__ = "conversations"
    __table_args__ = (
        Index(
            "conversations_request_id_key",
            "user_id",
            "request_id",
            unique=True,
            postgresql_where=sql_text("request_id IS NOT NULL"),
        ),
        Index("conversations_temporary_idx", "created_at", postgresql_where=sql_text("memory = 'temporary'")),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    settings: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]]
    request_id: Mapped[str | None] = mapped_column(Text)
    request_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    revision: Mapped[int] = mapped_column(BigInteger, server_default=sql_text("1"))
    head_id: Mapped[UUID | None]
    head_branch: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    head_depth: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    lineage: Mapped[list[int]] = mapped_column(server_default=sql_text("'{}'"))
    last_branch: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    last_sequence: Mapped[int] = mapped_column(BigInteger, server_default=sql_text("0"))
    pending_replies: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    memory: Mapped[str] = mapped_column(Text, server_default=sql_text("'remembered'"))
    erasures: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    context_tokens: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    previous_head_id: Mapped[UUID | None]


class BranchRow(Base):
    """A branch other than the first (0): `lineage` as in conversations, without the branch's own segment."""

    __tablename__ = "branches"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    branch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    lineage: Mapped[list[int]]


class MessageRow(Base):
    """A message, the user's or the assistant's; found by its place in the tree or by its id.

    `reserved_prompt_tokens` and `reserved_completion_tokens` are those of a reply. While it is pending, they count
    against its user's quota.
    """

    __tablename__ = "messages"
    __table_args__ = (
        Index("messages_id_key", "user_id", "id", unique=True),
        Index(
            "messages_client_message_id_key",
            "user_id",
            "conversation_id",
            "client_message_id",
            unique=True,
            postgresql_where=sql_text("client_message_id IS NOT NULL"),
        ),
        Index(
            "messages_pending_idx",
            "user_id",
            "conversation_id",
            "owner",
            postgresql_where=sql_text("state = 'pending'"),
        ),
        {"postgresql_partition_by": "HASH (user_id)"},
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    branch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    depth: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    id: Mapped[UUID]
    parent_id: Mapped[UUID | None]
    sequence: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    parts: Mapped[list[dict[str, Any]]]
    tokens: Mapped[int] = mapped_column(Integer)
    client_message_id: Mapped[str | None] = mapped_column(Text)
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    turn_settings: Mapped[dict[str, Any] | None]
    actor: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    owner: Mapped[UUID | None]
    model: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(Text)
    error_reason: Mapped[str | None] = mapped_column(Text)
    usage: Mapped[dict[str, Any] | None]
    delta_ends: Mapped[list[int] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    finished_at: Mapped[datetime | None]
    reserved_prompt_tokens: Mapped[int | None] = mapped_column(Integer)
    reserved_completion_tokens: Mapped[int | None] = mapped_column(Integer)


class SummaryRow(Base):
    """A version of a rolling summary. It never changes, but for its erasure, which leaves its number and place."""

    __tablename__ = "summaries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        Index("summaries_anchor_idx", "user_id", "conversation_id", "anchor_depth"),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    previous_version: Mapped[int | None] = mapped_column(BigInteger)
    anchor_id: Mapped[UUID]
    anchor_branch: Mapped[int] = mapped_column(Integer)
    anchor_depth: Mapped[int] = mapped_column(Integer)
    text: Mapped[str] = mapped_column(Text)
    tokens: Mapped[int] = mapped_column(Integer)
    model: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    facts: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql_text("'[]'"))
    erased_at: Mapped[datetime | None]


class ContextReportRow(Base):
    """What the model was given for one reply."""

    __tablename__ = "context_reports"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    reply_id: Mapped[UUID] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]


class EmbeddingSpaceRow(Base):
    """An embedding model that vectors were made with, and the floor of its cosines where it was calibrated."""

    __tablename__ = "embedding_spaces"

    id: Mapped[int] = mapped_column(SmallInteger, Identity(always=True), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    dimension: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    floor: Mapped[float | None] = mapped_column(Double)


class EmbeddingRow(Base):
    """A passage of a message or of a chunk of a document: its vector and its terms.

    Of a chunk, `message_id` is the chunk's id, `conversation_id` the document's, `depth` its number, and `branch` 0.
    `active` says whether other conversations may find it: whether the message lies on the active path of a remembered
    conversation. Half precision halves the row, and a table of their own keeps vectors off the messages' pages. `code`
    holds the vector's signs; the primary key includes all that a first look at many passages reads, so that one user's
    are read from neighbouring pages, wherever among other users' their rows are. It includes no more, since the look
    takes as long as they are wide: words, and a user's documents alone, are found by indexes of their own.

    Attributes:
        source: 0 for a message, 1 for a chunk (`chatrpc.db.search.Source`).
        collection_id: Of a chunk, the collection of its document, where it has one.
        created_at: When it was said, or its document ingested.
        length: In terms.
        terms: By hash of a term, how often the passage holds it.
    """

    __tablename__ = "embeddings"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "space_id", "message_id", "passage", postgresql_include=LOOKED_AT_FIRST),
        Index("embeddings_place_idx", "user_id", "conversation_id", "branch", "depth"),
        Index(
            "embeddings_documents_idx",
            "user_id",
            "collection_id",
            postgresql_include=["source"],
            postgresql_where=sql_text("source <> 0"),
        ),
        Index(
            "embeddings_terms_idx",
            sql_text("term_keys(user_id, terms)"),
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
        ),
        {"postgresql_partition_by": "HASH (user_id)"},
    )

    user_id: Mapped[UUID]
    space_id: Mapped[int] = mapped_column(SmallInteger, ForeignKey("embedding_spaces.id"))
    message_id: Mapped[UUID]
    passage: Mapped[int] = mapped_column(SmallInteger)
    conversation_id: Mapped[UUID]
    branch: Mapped[int] = mapped_column(Integer)
    depth: Mapped[int] = mapped_column(Integer)
    active: Mapped[bool] = mapped_column(Boolean)
    span_start: Mapped[int] = mapped_column(Integer)
    span_end: Mapped[int] = mapped_column(Integer)
    embedding: Mapped[Any] = mapped_column(HALFVEC())
    source: Mapped[int] = mapped_column(SmallInteger, server_default=sql_text("0"))
    collection_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    length: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    terms: Mapped[Any] = mapped_column(SPARSEVEC(), server_default=sql_text("'{}/1000000000'"))
    code: Mapped[Any] = mapped_column(BIT(varying=True), Computed("binary_quantize(embedding)", persisted=True))


class EmbeddingCountRow(Base):
    """How many passages a user has, kept by triggers on `embeddings`; it decides how they are searched."""

    __tablename__ = "embedding_counts"
    __table_args__ = ({"postgresql_with": {"fillfactor": "70"}},)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    space_id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    passages: Mapped[int] = mapped_column(BigInteger)


class MemoryTaskRow(Base):
    """Background work of one conversation: messages to embed, a batch to fold into the summary.

    `due_at` is null where nothing is to be done; `embedded_sequence` is the watermark up to which all finished
    messages are embedded. `finished_after` is the place before the first reply that was finished since the work was
    claimed, which the worker may have passed over. `fold_refusals` counts how often in a row the batch that is due was
    refused.
    """

    __tablename__ = "memory_tasks"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        Index("memory_tasks_due_idx", "due_at", postgresql_where=sql_text("due_at IS NOT NULL")),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    embedded_sequence: Mapped[int] = mapped_column(BigInteger, server_default=sql_text("0"))
    finished_after: Mapped[int | None] = mapped_column(BigInteger)
    fold_refusals: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))


class UsageEntryRow(Base):
    """What one attempt at a reply, or one piece of background work, has used. It never changes, and holds no text.

    Attributes:
        id: The reply's; of background work, its own.
        attempt: Of the reply; 0 of background work.
        kind: `turn`, `summary` or `embedding`.
        conversation_id: Of an embedding of a document, the document's id.
        model: The one that served; null where that is not known, or none was asked.
        estimated: Whether the tokens are not the provider's own count.
        reserved_tokens: What had been reserved.
    """

    __tablename__ = "usage_entries"
    __table_args__ = ({"postgresql_partition_by": "HASH (user_id)"},)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text)
    conversation_id: Mapped[UUID | None]
    model: Mapped[str | None] = mapped_column(Text)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    embedding_tokens: Mapped[int] = mapped_column(BigInteger)
    estimated: Mapped[bool] = mapped_column(Boolean)
    reserved_tokens: Mapped[int] = mapped_column(Integer)
    booked_at: Mapped[datetime]


class UsageHourRow(Base):
    """The entries of one user, hour, kind and model, added up as they are booked: any window is the sum of a few rows.

    `turns` counts finished replies, of summaries and embeddings the pieces of work; `estimated_tokens` is the part of
    all tokens that is estimated; `model` is empty where it is not known, and of turns that used nothing.
    """

    __tablename__ = "usage_hours"
    __table_args__ = ({"postgresql_with": {"fillfactor": "70"}},)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    turns: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    embedding_tokens: Mapped[int] = mapped_column(BigInteger)
    estimated_tokens: Mapped[int] = mapped_column(BigInteger)


class TokenIssuerRow(Base):
    """The issuer whose users' rows these are; one row, written by the first server."""

    __tablename__ = "token_issuer"
    __table_args__ = (CheckConstraint("id = 1"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, server_default="1")
    issuer: Mapped[str] = mapped_column(Text)


class ServerProcessRow(Base):
    """A living server process; while its lease lasts, no other process takes over its replies."""

    __tablename__ = "server_processes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    lease_until: Mapped[datetime]


class CollectionRow(Base):
    """Documents that belong together. `user_id` is a user, or the shared owner, whose rows all users read."""

    __tablename__ = "collections"
    __table_args__ = (
        Index(
            "collections_request_id_key",
            "user_id",
            "request_id",
            unique=True,
            postgresql_where=sql_text("request_id IS NOT NULL"),
        ),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))


class DocumentRow(Base):
    """A document, known by its content within its collection. Its chunks up to `embedded_chunks` can be found."""

    __tablename__ = "documents"
    __table_args__ = (
        ForeignKeyConstraint(["user_id", "collection_id"], ["collections.user_id", "collections.id"]),
        Index(
            "documents_content_key",
            "user_id",
            "collection_id",
            "sha256",
            "media_type",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID | None]
    title: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(Text)
    uri: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, Any]]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(Text)
    error_reason: Mapped[str | None] = mapped_column(Text)
    received: Mapped[int] = mapped_column(BigInteger, server_default=sql_text("0"))
    characters: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    pages: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    chunks: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    embedded_chunks: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=sql_text("now()"))


class DocumentPartRow(Base):
    """Bytes of a document that is not parsed yet."""

    __tablename__ = "document_parts"
    __table_args__ = (
        ForeignKeyConstraint(["user_id", "document_id"], ["documents.user_id", "documents.id"], ondelete="CASCADE"),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class DocumentChunkRow(Base):
    """A passage of a document. Its vector is the row of `embeddings` whose `message_id` is this row's `id`."""

    __tablename__ = "document_chunks"
    __table_args__ = (
        ForeignKeyConstraint(["user_id", "document_id"], ["documents.user_id", "documents.id"], ondelete="CASCADE"),
        Index("document_chunks_id_key", "user_id", "id", unique=True),
        {"postgresql_partition_by": "HASH (user_id)"},
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    id: Mapped[UUID]
    span_start: Mapped[int] = mapped_column(Integer)
    span_end: Mapped[int] = mapped_column(Integer)
    page: Mapped[int] = mapped_column(Integer)
    headings: Mapped[list[str]]
    text: Mapped[str] = mapped_column(Text)


class DocumentTaskRow(Base):
    """Background work of one document: to parse and to embed it, or to discard an upload that was given up."""

    __tablename__ = "document_tasks"
    __table_args__ = (
        ForeignKeyConstraint(["user_id", "document_id"], ["documents.user_id", "documents.id"], ondelete="CASCADE"),
        Index("document_tasks_due_idx", "due_at"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=sql_text("0"))
