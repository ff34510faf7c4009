"""Collections of documents, by SQLAlchemy Core. What an `owner_id` is: see `chatrpc.db.documents`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from uuid_utils.compat import uuid7

from chatrpc.db.documents import DocumentCounts, delete_documents
from chatrpc.db.engine import Database
from chatrpc.db.pages import cut_page, id_after
from chatrpc.db.tables import CollectionRow, DocumentRow
from chatrpc.domain import Collection, Page
from chatrpc.errors import AlreadyExists, NotFound, Reason

_COLUMNS = (CollectionRow.id, CollectionRow.user_id.label("owner_id"), CollectionRow.title, CollectionRow.created_at)
_READ_SHARED = text("SELECT set_config('chatrpc.shared_id', :shared_id, true)")


class Collections:
    """Creates, reads, lists and deletes collections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, owner_id: UUID, title: str, request_id: str | None) -> Collection:
        """Create a collection, or return that of an earlier request with the same id and title.

        Raises:
            AlreadyExists: The request id was used for another title.
        """
        statement = upsert(CollectionRow).values(user_id=owner_id, id=uuid7(), title=title, request_id=request_id)
        async with self._database.session(owner_id) as session:
            created = await session.execute(statement.on_conflict_do_nothing().returning(*_COLUMNS))
            row = created.mappings().one_or_none()
            if row is None:
                found = await session.execute(
                    select(*_COLUMNS).where(CollectionRow.user_id == owner_id, CollectionRow.request_id == request_id)
                )
                row = found.mappings().one()
                if row["title"] != title:
                    raise AlreadyExists(
                        Reason.REQUEST_ID_REUSED,
                        "collection",
                        str(request_id),
                        f"request_id {request_id!r} was used for another collection; choose a new one.",
                    )
            return Collection(**row)

    async def find(self, owner_id: UUID, shared_id: UUID, collection_id: UUID) -> Collection:
        """A collection of the owner's, or a shared one. Raises NotFound."""
        async with self._database.session(owner_id) as session:
            await session.execute(_READ_SHARED, {"shared_id": str(shared_id)})
            rows = await session.execute(
                select(*_COLUMNS).where(
                    CollectionRow.user_id.in_((owner_id, shared_id)), CollectionRow.id == collection_id
                )
            )
            row = rows.mappings().one_or_none()
        if row is None:
            raise NotFound(Reason.COLLECTION_NOT_FOUND, "collection", str(collection_id))
        return Collection(**row)

    async def list(self, owner_id: UUID, shared_id: UUID, page: Page) -> tuple[Sequence[Collection], str | None]:
        """A page of the owner's collections and the shared ones, the newest first, and where the next begins."""
        query = (
            select(*_COLUMNS)
            .where(CollectionRow.user_id.in_((owner_id, shared_id)))
            .order_by(CollectionRow.id.desc())
            .limit(page.size + 1)
        )
        if page.after is not None:
            query = query.where(CollectionRow.id < id_after(page.after))
        async with self._database.session(owner_id) as session:
            await session.execute(_READ_SHARED, {"shared_id": str(shared_id)})
            rows = (await session.execute(query)).mappings().all()
        shown, more = cut_page([Collection(**row) for row in rows], page.size, lambda each: len(each.title))
        return shown, str(shown[-1].id) if more else None

    async def delete(self, owner_id: UUID, collection_id: UUID) -> DocumentCounts:
        """Delete a collection with its documents; how many of what. Raises NotFound."""
        async with self._database.session(owner_id) as session:
            # The lock keeps documents from being added: their foreign key waits for it, and then fails.
            locked = await session.execute(
                select(CollectionRow.id)
                .where(CollectionRow.user_id == owner_id, CollectionRow.id == collection_id)
                .with_for_update()
            )
            if locked.one_or_none() is None:
                raise NotFound(Reason.COLLECTION_NOT_FOUND, "collection", str(collection_id))
            documents = await session.execute(
                select(DocumentRow.id)
                .where(DocumentRow.user_id == owner_id, DocumentRow.collection_id == collection_id)
                .with_for_update()
            )
            counts = await delete_documents(session, owner_id, documents.scalars().all())
            await session.execute(
                delete(CollectionRow).where(CollectionRow.user_id == owner_id, CollectionRow.id == collection_id)
            )
        return counts
