"""KnowledgeService: documents, their collections, and search in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import grpc
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceServicer

from chatrpc.domain import Document
from chatrpc.knowledge.library import Library
from chatrpc.knowledge.search import DEFAULT_RESULTS, DocumentSearch
from chatrpc.rpc.call import current_caller
from chatrpc.rpc.convert_document import collection_to_proto, description_from_proto, document_to_proto
from chatrpc.rpc.convert_report import passage_to_proto
from chatrpc.rpc.document_upload import ingest
from chatrpc.rpc.lifecycle import pumped
from chatrpc.rpc.outbox import StreamPolicy
from chatrpc.rpc.page_token import next_page_token, page_of

_Context = grpc.aio.ServicerContext[Any, Any]


class KnowledgeServicer(KnowledgeServiceServicer):
    """Documented in the contract, `knowledge_service.proto`."""

    def __init__(self, library: Library, search: DocumentSearch, policy: StreamPolicy) -> None:
        self._library = library
        self._search = search
        self._policy = policy

    async def IngestDocument(
        self, request_iterator: AsyncIterator[pb.IngestDocumentRequest], context: _Context
    ) -> pb.IngestDocumentResponse:
        document, existing = await ingest(self._library, current_caller(), request_iterator)
        return pb.IngestDocumentResponse(
            document=document_to_proto(document, self._library.shared_id), existing=existing
        )

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: _Context) -> pb.BeginUploadResponse:
        document = await self._library.begin(current_caller(), description_from_proto(request.description))
        return pb.BeginUploadResponse(
            document=document_to_proto(document, self._library.shared_id), existing=document.uploaded
        )

    async def UploadDocumentPart(
        self, request: pb.UploadDocumentPartRequest, context: _Context
    ) -> pb.UploadDocumentPartResponse:
        document = await self._library.add_part(
            current_caller(), UUID(request.document_id), request.offset, request.data
        )
        return pb.UploadDocumentPartResponse(document=document_to_proto(document, self._library.shared_id))

    async def GetDocument(self, request: pb.GetDocumentRequest, context: _Context) -> pb.GetDocumentResponse:
        document = await self._library.get(current_caller(), UUID(request.document_id))
        return pb.GetDocumentResponse(document=document_to_proto(document, self._library.shared_id))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: _Context) -> pb.ListDocumentsResponse:
        caller = current_caller()
        collection_id = UUID(request.collection_id) if request.collection_id else None
        documents, following = await self._library.list(
            caller, page_of(caller.user_id, request), collection_id, dict(request.labels)
        )
        return pb.ListDocumentsResponse(
            documents=(document_to_proto(document, self._library.shared_id) for document in documents),
            next_page_token=next_page_token(caller.user_id, request, following),
        )

    async def WatchDocument(
        self, request: pb.WatchDocumentRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchDocumentResponse, None]:
        caller = current_caller()
        documents = self._library.watch(caller, UUID(request.document_id))

        def convert(document: Document) -> pb.WatchDocumentResponse:
            return pb.WatchDocumentResponse(document=document_to_proto(document, self._library.shared_id))

        async with aclosing(pumped(documents, convert, pb.WatchDocumentResponse, caller, self._policy)) as responses:
            async for response in responses:
                yield response

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: _Context) -> pb.DeleteDocumentResponse:
        counts = await self._library.delete(current_caller(), UUID(request.document_id))
        return pb.DeleteDocumentResponse(
            chunks=counts.chunks, vectors=counts.vectors, uploaded_bytes=counts.uploaded_bytes
        )

    async def SearchDocuments(
        self, request: pb.SearchDocumentsRequest, context: _Context
    ) -> pb.SearchDocumentsResponse:
        caller = current_caller()
        collections = [UUID(collection_id) for collection_id in request.collection_ids]
        await asyncio.gather(*(self._library.collection(caller, collection_id) for collection_id in collections))
        hits = await self._search.search(
            caller.user_id, request.query, request.max_results or DEFAULT_RESULTS, collections
        )
        return pb.SearchDocumentsResponse(
            passages=map(passage_to_proto, hits), embedding_model=self._search.embedding_model
        )

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: _Context
    ) -> pb.CreateCollectionResponse:
        collection = await self._library.create_collection(
            current_caller(),
            request.collection.title,
            shared=request.collection.shared,
            request_id=request.request_id or None,
        )
        return pb.CreateCollectionResponse(collection=collection_to_proto(collection, self._library.shared_id))

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: _Context
    ) -> pb.ListCollectionsResponse:
        caller = current_caller()
        collections, following = await self._library.list_collections(caller, page_of(caller.user_id, request))
        return pb.ListCollectionsResponse(
            collections=(collection_to_proto(collection, self._library.shared_id) for collection in collections),
            next_page_token=next_page_token(caller.user_id, request, following),
        )

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: _Context
    ) -> pb.DeleteCollectionResponse:
        counts = await self._library.delete_collection(current_caller(), UUID(request.collection_id))
        return pb.DeleteCollectionResponse(
            documents=counts.documents,
            chunks=counts.chunks,
            vectors=counts.vectors,
            uploaded_bytes=counts.uploaded_bytes,
        )
