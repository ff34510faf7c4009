"""Documents, from the first byte of their upload to their end, by SQLAlchemy Core.

An `owner_id` is a user, or the shared owner of shared collections. Whoever may act as the owner is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from chatrpc.db.engine import Database
from chatrpc.db.pages import cut_page, id_after
from chatrpc.db.quotes import lock_quotes, unquote
from chatrpc.db.tables import (
    CollectionRow,
    DocumentChunkRow,
    DocumentPartRow,
    DocumentRow,
    DocumentTaskRow,
    EmbeddingRow,
)
from chatrpc.domain import Document, DocumentState, NewDocument, Page
from chatrpc.errors import FailedPrecondition, InvalidInput, NotFound, Reason

UPLOAD_LIFETIME = timedelta(days=1)
"""An upload that gets no bytes for so long is discarded."""


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """What a deletion removed."""

    documents: int
    chunks: int
    vectors: int
    uploaded_bytes: int


class Documents:
    """Takes documents in, reads, lists and deletes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, owner_id: UUID, new: NewDocument) -> Document:
        """The document with this content: as it is, where its bytes are there or arriving, else a new one.

        Raises:
            NotFound: The owner has no such collection.
        """
        described = {"title": new.title, "uri": new.uri, "labels": new.labels}
        statement = upsert(DocumentRow).values(
            user_id=owner_id,
            id=uuid7(),
            collection_id=new.collection_id,
            media_type=new.media_type,
            size=new.size,
            sha256=new.sha256,
            state=DocumentState.UPLOADING,
            **described,
        )
        async with self._database.session(owner_id) as session:
            if new.collection_id is not None:
                await _hold_collection(session, owner_id, new.collection_id)
            created = await session.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id", "collection_id", "sha256", "media_type"],
                    # Nothing changes, but the row that is there is locked and told.
                    set_={"state": DocumentRow.state},
                ).returning(DocumentRow)
            )
            row = created.mappings().one()
            if row["state"] == DocumentState.FAILED:
                # Nothing of it is left but the row, and the limits may be others by now.
                renewed = await session.execute(
                    update(DocumentRow)
                    .where(*_key(owner_id, row["id"]))
                    .values(state=DocumentState.UPLOADING, error_reason=None, updated_at=func.now(), **described)
                    .returning(DocumentRow)
                )
                row = renewed.mappings().one()
            if row["state"] == DocumentState.UPLOADING:
                await _put_task(session, owner_id, row["id"], UPLOAD_LIFETIME)
            return document_of(row)

    async def add_part(self, owner_id: UUID, document_id: UUID, offset: int, data: bytes) -> Document:
        """Add bytes to an upload. Those that are there already are passed over.

        Raises:
            NotFound: No such document.
            FailedPrecondition: The offset is beyond what has arrived.
            InvalidInput: There are more bytes than were announced.
        """
        async with self._database.session(owner_id) as session:
            row = await _locked(session, owner_id, document_id)
            received = row["received"]
            if row["state"] != DocumentState.UPLOADING:
                return document_of(row)
            if offset > received:
                raise upload_incomplete(document_id, received)
            if offset + len(data) > row["size"]:
                raise InvalidInput(
                    "data", f"The document has {row['size']} bytes, as announced; this part goes beyond."
                )
            rest = data[received - offset :]
            if not rest:
                return document_of(row)
            await session.execute(
                upsert(DocumentPartRow).values(user_id=owner_id, document_id=document_id, start=received, data=rest)
            )
            await _put_task(session, owner_id, document_id, UPLOAD_LIFETIME)
            return await _updated(session, owner_id, document_id, received=received + len(rest))

    async def accept(self, owner_id: UUID, document_id: UUID) -> Document:
        """All bytes are there and are what was announced: the background work may begin. Raises NotFound."""
        async with self._database.session(owner_id) as session:
            row = await _locked(session, owner_id, document_id)
            if row["state"] != DocumentState.UPLOADING:
                return document_of(row)
            await _put_task(session, owner_id, document_id, timedelta(0))
            return await _updated(session, owner_id, document_id, state=DocumentState.PARSING)

    async def parts(self, owner_id: UUID, document_id: UUID) -> AsyncGenerator[bytes, None]:
        """The bytes that have arrived, part by part; no connection is held meanwhile."""
        after = -1
        while True:
            async with self._database.session(owner_id) as session:
                rows = await session.execute(
                    select(DocumentPartRow.start, DocumentPartRow.data)
                    .where(
                        DocumentPartRow.user_id == owner_id,
                        DocumentPartRow.document_id == document_id,
                        DocumentPartRow.start > after,
                    )
                    .order_by(DocumentPartRow.start)
                    .limit(1)
                )
                row = rows.one_or_none()
            if row is None:
                return
            after = row.start
            yield row.data

    async def get(self, owner_id: UUID, document_id: UUID) -> Document:
        """Raises NotFound."""
        async with self._database.session(owner_id) as session:
            rows = await session.execute(select(DocumentRow).where(*_key(owner_id, document_id)))
            row = rows.mappings().one_or_none()
        if row is None:
            raise not_found(document_id)
        return document_of(row)

    async def list(
        self, owner_id: UUID, page: Page, *, collection_id: UUID | None = None, labels: dict[str, str] | None = None
    ) -> tuple[Sequence[Document], str | None]:
        """A page of the owner's documents, the newest first, and where the next begins."""
        # By id alone, since ids are in order of time.
        query = (
            select(DocumentRow)
            .where(DocumentRow.user_id == owner_id)
            .order_by(DocumentRow.id.desc())
            .limit(page.size + 1)
        )
        if collection_id is not None:
            query = query.where(DocumentRow.collection_id == collection_id)
        if labels:
            query = query.where(DocumentRow.labels.contains(labels))
        if page.after is not None:
            query = query.where(DocumentRow.id < id_after(page.after))
        async with self._database.session(owner_id) as session:
            rows = (await session.execute(query)).mappings().all()
        shown, more = cut_page([document_of(row) for row in rows], page.size, _characters)
        return shown, str(shown[-1].id) if more else None

    async def delete(self, owner_id: UUID, document_id: UUID) -> DocumentCounts:
        """Delete a document with all that was derived from it. Raises NotFound."""
        async with self._database.session(owner_id) as session:
            await _locked(session, owner_id, document_id)
            return await delete_documents(session, owner_id, [document_id])

    async def delete_expired(self, owner_id: UUID, document_id: UUID) -> None:
        """Discard an upload that was given up; one that goes on after all stays."""
        async with self._database.session(owner_id) as session:
            rows = await session.execute(
                select(DocumentRow.id)
                .where(
                    *_key(owner_id, document_id),
                    DocumentRow.state == DocumentState.UPLOADING,
                    DocumentRow.updated_at < func.now() - UPLOAD_LIFETIME,
                )
                .with_for_update()
            )
            if rows.one_or_none() is not None:
                await delete_documents(session, owner_id, [document_id])

    async def fail(self, owner_id: UUID, document_id: UUID, reason: Reason) -> None:
        """It cannot be read: nothing is kept of it but what its owner said of it, and the reason. Raises NotFound."""
        async with self._database.session(owner_id) as session:
            row = await _locked(session, owner_id, document_id)
            # By another worker, after this one's lease ran out, it may have been read after all.
            if row["state"] != DocumentState.PARSING:
                return
            for table in (DocumentChunkRow, DocumentPartRow, DocumentTaskRow):
                await session.execute(delete(table).where(table.user_id == owner_id, table.document_id == document_id))
            await _updated(
                session, owner_id, document_id, state=DocumentState.FAILED, error_reason=reason.value, received=0
            )


async def delete_documents(session: AsyncConnection, owner_id: UUID, ids: Sequence[UUID]) -> DocumentCounts:
    """Delete documents, whose rows the caller has locked, and their passages in its owner's reports; count them."""
    await lock_quotes(session, owner_id)
    await unquote(session, owner_id, ids)
    parts = await session.execute(
        select(func.coalesce(func.sum(func.length(DocumentPartRow.data)), 0)).where(
            DocumentPartRow.user_id == owner_id, DocumentPartRow.document_id.in_(ids)
        )
    )
    chunks = await session.execute(
        delete(DocumentChunkRow).where(DocumentChunkRow.user_id == owner_id, DocumentChunkRow.document_id.in_(ids))
    )
    vectors = await session.execute(
        delete(EmbeddingRow).where(EmbeddingRow.user_id == owner_id, EmbeddingRow.conversation_id.in_(ids))
    )
    documents = await session.execute(
        delete(DocumentRow).where(DocumentRow.user_id == owner_id, DocumentRow.id.in_(ids))
    )
    return DocumentCounts(documents.rowcount, chunks.rowcount, vectors.rowcount, parts.scalar_one())


def document_of(row: Any) -> Document:
    """Args: row: A mapping with the columns of `documents`."""
    return Document(
        id=row["id"],
        owner_id=row["user_id"],
        collection_id=row["collection_id"],
        title=row["title"],
        media_type=row["media_type"],
        uri=row["uri"],
        labels=row["labels"],
        size=row["size"],
        sha256=row["sha256"],
        state=DocumentState(row["state"]),
        error_reason=row["error_reason"],
        received=row["received"],
        characters=row["characters"],
        pages=row["pages"],
        chunks=row["chunks"],
        embedded_chunks=row["embedded_chunks"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def not_found(document_id: UUID) -> NotFound:
    return NotFound(Reason.DOCUMENT_NOT_FOUND, "document", str(document_id))


def upload_incomplete(document_id: UUID, received: int) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.UPLOAD_INCOMPLETE,
        f"{received} bytes of the document have arrived; go on from there.",
        id=str(document_id),
        received=str(received),
    )


def _characters(document: Document) -> int:
    return sum(map(len, (document.title, document.uri, *document.labels, *document.labels.values())))


def _key(owner_id: UUID, document_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return DocumentRow.user_id == owner_id, DocumentRow.id == document_id


async def _hold_collection(session: AsyncConnection, owner_id: UUID, collection_id: UUID) -> None:
    """Keep a collection from being deleted until the transaction ends. Raises NotFound."""
    rows = await session.execute(
        select(CollectionRow.id)
        .where(CollectionRow.user_id == owner_id, CollectionRow.id == collection_id)
        .with_for_update(read=True, key_share=True)
    )
    if rows.one_or_none() is None:
        raise NotFound(Reason.COLLECTION_NOT_FOUND, "collection", str(collection_id))


async def _locked(session: AsyncConnection, owner_id: UUID, document_id: UUID) -> Any:
    rows = await session.execute(select(DocumentRow).where(*_key(owner_id, document_id)).with_for_update())
    row = rows.mappings().one_or_none()
    if row is None:
        raise not_found(document_id)
    return row


async def _updated(session: AsyncConnection, owner_id: UUID, document_id: UUID, **values: Any) -> Document:
    statement = update(DocumentRow).where(*_key(owner_id, document_id)).values(updated_at=func.now(), **values)
    rows = await session.execute(statement.returning(DocumentRow))
    return document_of(rows.mappings().one())


async def _put_task(session: AsyncConnection, owner_id: UUID, document_id: UUID, delay: timedelta) -> None:
    statement = upsert(DocumentTaskRow).values(user_id=owner_id, document_id=document_id, due_at=func.now() + delay)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[DocumentTaskRow.user_id, DocumentTaskRow.document_id],
            set_={"due_at": statement.excluded.due_at, "claimed_until": None, "attempts": 0},
        )
    )
