"""Documents over an unreliable connection: uploads that go on where they were cut off, progress until the end."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from chatapi.v1.document_pb2 import DOCUMENT_STATE_FAILED, DOCUMENT_STATE_READY, Document, DocumentDescription
from chatapi.v1.knowledge_service_pb2 import (
    BeginUploadRequest,
    IngestDocumentRequest,
    IngestStart,
    WatchDocumentRequest,
)

from chatrpc.client.credentials import Credentials
from chatrpc.client.errors import CallError
from chatrpc.client.retry import Backoff

if TYPE_CHECKING:
    # Only the type hints know this class.
    from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceAsyncStub

# Bytes of one request of an upload; the server takes twice as many.
PART = 256 * 1024
# Seconds that one try of a unary call may take.
_DEADLINE = 30.0
_FINAL = (DOCUMENT_STATE_READY, DOCUMENT_STATE_FAILED)


class Documents:
    """Made by `ChatClient`."""

    def __init__(
        self, stub: KnowledgeServiceAsyncStub, credentials: Credentials, new_backoff: Callable[[], Backoff]
    ) -> None:
        self._stub = stub
        self._credentials = credentials
        self._new_backoff = new_backoff

    async def ingest(self, description: DocumentDescription, data: bytes) -> tuple[Document, bool]:
        """Send a document; size and digest are filled in. It, and whether its content was there already.

        Raises:
            CallError: The upload failed for good, or too many times without a further byte.
        """
        described = DocumentDescription()
        described.CopyFrom(description)
        described.size, described.sha256 = len(data), hashlib.sha256(data).hexdigest()
        backoff = self._new_backoff()
        received, existing = -1, None
        while True:
            metadata = await self._credentials.metadata()
            try:
                begun = await self._stub.BeginUpload(
                    BeginUploadRequest(description=described), metadata=metadata, timeout=_DEADLINE
                )
                # After a first try, "existing" may be what that has sent.
                existing = begun.existing if existing is None else existing
                if begun.existing:
                    return begun.document, existing
                if begun.document.received_bytes > received:
                    received = begun.document.received_bytes
                    backoff.progressed()
                answer = await self._stub.IngestDocument(_requests(described, data, received), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                await backoff.pause(CallError.from_call(error), metadata)
            else:
                return answer.document, existing

    async def watch(self, document_id: str) -> AsyncGenerator[Document, None]:
        """The document, and again after each change, until it is ready or failed.

        Raises:
            CallError: It does not exist, or the server cannot be reached for long.
        """
        backoff = self._new_backoff()
        seen: Document | None = None
        while True:
            metadata = await self._credentials.metadata()
            try:
                async with aclosing(self._changes(document_id, metadata)) as changes:
                    async for document in changes:
                        backoff.progressed()
                        if document != seen:
                            yield document
                        seen = document
            except grpc.aio.AioRpcError as error:
                await backoff.pause(CallError.from_call(error), metadata)
            if seen is not None and seen.state in _FINAL:
                return

    async def _changes(self, document_id: str, metadata: tuple[tuple[str, str], ...]) -> AsyncGenerator[Document, None]:
        call = self._stub.WatchDocument(WatchDocumentRequest(document_id=document_id), metadata=metadata)
        try:
            async for response in call:
                if response.WhichOneof("event") == "document":
                    yield response.document
        finally:
            # A call that is given up is never collected.
            call.cancel()


async def _requests(description: DocumentDescription, data: bytes, offset: int) -> AsyncIterator[IngestDocumentRequest]:
    yield IngestDocumentRequest(start=IngestStart(description=description, offset=offset))
    for begin in range(offset, len(data), PART):
        yield IngestDocumentRequest(data=data[begin : begin + PART])
