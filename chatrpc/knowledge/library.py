"""What a caller may do with documents and collections: their own, and those that all users of the issuer share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from uuid import UUID

from chatrpc.db.collections import Collections
from chatrpc.db.documents import DocumentCounts, Documents
from chatrpc.domain import Caller, Collection, Document, DocumentState, NewDocument, Page
from chatrpc.errors import InvalidInput, NotFound, PermissionDenied, Reason
from chatrpc.knowledge.media_type import SUPPORTED, media_type_of

WATCH_SECONDS = 0.25
"""Between two looks at a document that is watched: any process may be at work on it."""


class Library:
    """Documents and collections as callers see them.

    Args:
        shared_id: Owner of the shared collections.
        write_scope: What a token needs to write them.
        max_bytes: Of a document.
        on_accepted: Called when a document is ready to be parsed.
    """

    def __init__(
        self,
        documents: Documents,
        collections: Collections,
        shared_id: UUID,
        write_scope: str,
        max_bytes: int,
        on_accepted: Callable[[], None],
    ) -> None:
        self.shared_id = shared_id
        self._documents = documents
        self._collections = collections
        self._write_scope = write_scope
        self._max_bytes = max_bytes
        self._on_accepted = on_accepted

    async def begin(self, caller: Caller, new: NewDocument) -> Document:
        """The document with this content: as it is, where its bytes are there or arriving, else a new one.

        Raises:
            InvalidInput: Such a document cannot be read, or it is too large.
            NotFound: No such collection.
            PermissionDenied: It is shared, and the token's scope does not allow to write it.
        """
        if media_type_of(new.media_type)[0] not in SUPPORTED:
            raise InvalidInput(
                "description.media_type",
                f"Documents can be {', '.join(SUPPORTED)}; convert it to one of them.",
                Reason.MEDIA_TYPE_UNSUPPORTED,
            )
        if new.size > self._max_bytes:
            raise InvalidInput(
                "description.size",
                f"A document may have {self._max_bytes} bytes; split it.",
                Reason.DOCUMENT_TOO_LARGE,
            )
        owner_id = caller.user_id
        if new.collection_id is not None:
            owner_id = (await self.collection(caller, new.collection_id)).owner_id
        self._require_writer(caller, owner_id)
        return await self._documents.begin(owner_id, new)

    async def add_part(self, caller: Caller, document_id: UUID, offset: int, data: bytes) -> Document:
        """Add bytes to an upload; with the last ones, the document is ready to be parsed.

        Raises:
            NotFound, PermissionDenied: As in `begin`.
            FailedPrecondition: The offset is beyond what has arrived.
            InvalidInput: There are more bytes than were announced, or they have another digest and were discarded.
        """
        owner_id = await self._writable(caller, document_id)
        document = await self._documents.add_part(owner_id, document_id, offset, data)
        if document.state is not DocumentState.UPLOADING or document.received < document.size:
            return document
        digest = hashlib.sha256()
        async with aclosing(self._documents.parts(owner_id, document_id)) as parts:
            async for part in parts:
                digest.update(part)
        if digest.digest() != document.sha256:
            await self._documents.delete(owner_id, document_id)
            raise InvalidInput(
                "description.sha256",
                "The bytes that arrived have another SHA-256 and were discarded; begin again.",
                Reason.CONTENT_MISMATCH,
            )
        document = await self._documents.accept(owner_id, document_id)
        self._on_accepted()
        return document

    async def get(self, caller: Caller, document_id: UUID) -> Document:
        """Raises NotFound."""
        try:
            return await self._documents.get(caller.user_id, document_id)
        except NotFound:
            return await self._documents.get(self.shared_id, document_id)

    async def list(
        self, caller: Caller, page: Page, collection_id: UUID | None, labels: dict[str, str]
    ) -> tuple[Sequence[Document], str | None]:
        """A page of the caller's own documents or of a collection's, the newest first. Raises NotFound."""
        owner_id = caller.user_id
        if collection_id is not None:
            owner_id = (await self.collection(caller, collection_id)).owner_id
        return await self._documents.list(owner_id, page, collection_id=collection_id, labels=labels)

    async def watch(self, caller: Caller, document_id: UUID) -> AsyncGenerator[Document, None]:
        """The document, and again after each change, until nothing more happens by itself. Raises NotFound."""
        document = await self.get(caller, document_id)
        yield document
        while not document.state.final:
            await asyncio.sleep(WATCH_SECONDS)
            seen, document = document, await self._documents.get(document.owner_id, document_id)
            if document != seen:
                yield document

    async def delete(self, caller: Caller, document_id: UUID) -> DocumentCounts:
        """Raises NotFound, PermissionDenied."""
        return await self._documents.delete(await self._writable(caller, document_id), document_id)

    async def create_collection(
        self, caller: Caller, title: str, *, shared: bool, request_id: str | None
    ) -> Collection:
        """Raises PermissionDenied, AlreadyExists."""
        owner_id = self.shared_id if shared else caller.user_id
        self._require_writer(caller, owner_id)
        return await self._collections.create(owner_id, title, request_id)

    async def collection(self, caller: Caller, collection_id: UUID) -> Collection:
        """Raises NotFound."""
        return await self._collections.find(caller.user_id, self.shared_id, collection_id)

    async def list_collections(self, caller: Caller, page: Page) -> tuple[Sequence[Collection], str | None]:
        """A page of the caller's own collections and the shared ones, the newest first."""
        return await self._collections.list(caller.user_id, self.shared_id, page)

    async def delete_collection(self, caller: Caller, collection_id: UUID) -> DocumentCounts:
        """Delete a collection with its documents. Raises NotFound, PermissionDenied."""
        owner_id = (await self.collection(caller, collection_id)).owner_id
        self._require_writer(caller, owner_id)
        return await self._collections.delete(owner_id, collection_id)

    async def _writable(self, caller: Caller, document_id: UUID) -> UUID:
        """The owner of a document that the caller may write."""
        owner_id = (await self.get(caller, document_id)).owner_id
        self._require_writer(caller, owner_id)
        return owner_id

    def _require_writer(self, caller: Caller, owner_id: UUID) -> None:
        if owner_id == self.shared_id and self._write_scope not in caller.scopes:
            raise PermissionDenied(
                Reason.SCOPE_MISSING,
                f"Shared collections are written by tokens with the scope {self._write_scope}.",
                scope=self._write_scope,
            )
