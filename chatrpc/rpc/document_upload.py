"""The upload of a document in one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chatapi.v1 import knowledge_service_pb2 as pb

from chatrpc.db.documents import upload_incomplete
from chatrpc.domain import Caller, Document
from chatrpc.errors import InvalidInput
from chatrpc.knowledge.library import Library
from chatrpc.rpc.convert_document import description_from_proto
from chatrpc.rpc.validation import checked


async def ingest(
    library: Library, caller: Caller, requests: AsyncIterator[pb.IngestDocumentRequest]
) -> tuple[Document, bool]:
    """Take a document in; the document, and whether its content was there already.

    Each request is stored before the next is read, so whatever cuts the stream off costs what was under way at most.

    Raises:
        InvalidInput: A request is malformed or out of order.
        FailedPrecondition: The offset is beyond what has arrived, or the stream ended too early.
        ChatError: As `Library.begin` and `Library.add_part`.
    """
    document: Document | None = None
    offset = 0
    async for request in requests:
        piece = checked(request)
        if document is None:
            if piece.WhichOneof("piece") != "start":
                raise InvalidInput("start", "The first request of an ingest stream is its start; send the description.")
            document = await library.begin(caller, description_from_proto(piece.start.description))
            offset = piece.start.offset
            if document.uploaded:
                return document, True
            if offset > document.received:
                raise upload_incomplete(document.id, document.received)
        else:
            if piece.WhichOneof("piece") != "data":
                raise InvalidInput("start", "An ingest stream has one start, its first request; send data.")
            document = await library.add_part(caller, document.id, offset, piece.data)
            offset += len(piece.data)
    if document is None:
        raise InvalidInput("start", "The stream ended before its start; send the description first.")
    if not document.uploaded:
        raise upload_incomplete(document.id, document.received)
    return document, False
