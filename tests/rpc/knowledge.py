"""Shorthands for the tests of KnowledgeService."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import grpc
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.document_pb2 import Collection, Document, DocumentDescription

from tests.rpc.stage import PATIENCE, Metadata, Stage

GUIDE = b"""# Guide

The cabin has a stove and a boiler, and the key hangs behind the shed.

## Boiler

The boiler is descaled every spring with vinegar and warm water.

## Roof

The roof was mended with larch shingles after the storm.
"""


def described(data: bytes, **fields) -> DocumentDescription:
    values = {"media_type": "text/markdown", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return DocumentDescription(**(values | fields))


def start_of(data: bytes, offset: int = 0, **fields) -> pb.IngestDocumentRequest:
    return pb.IngestDocumentRequest(start=pb.IngestStart(description=described(data, **fields), offset=offset))


def part_of(document_id: str, data: bytes, offset: int, size: int) -> pb.UploadDocumentPartRequest:
    return pb.UploadDocumentPartRequest(document_id=document_id, offset=offset, data=data[offset : offset + size])


async def begun(stage: Stage, data: bytes, metadata: Metadata, **fields) -> pb.BeginUploadResponse:
    request = pb.BeginUploadRequest(description=described(data, **fields))
    return await stage.knowledge.BeginUpload(request, metadata=metadata)


async def ingested(stage: Stage, data: bytes, metadata: Metadata, offset: int = 0, **fields) -> Document:
    """A document whose bytes have all arrived, in small pieces."""

    def requests() -> Iterator[pb.IngestDocumentRequest]:
        yield start_of(data, offset, **fields)
        for begin in range(offset, len(data), 100):
            yield pb.IngestDocumentRequest(data=data[begin : begin + 100])

    answer = await stage.knowledge.IngestDocument(requests(), metadata=metadata)
    assert not answer.existing
    return answer.document


async def drained(stage: Stage) -> None:
    """Do all background work that is due."""
    async with asyncio.timeout(PATIENCE):
        await stage.ingest.drain()


async def watched(stage: Stage, document_id: str, metadata: Metadata) -> list[Document]:
    """All that a watch shows of a document until it ends."""
    call = stage.knowledge.WatchDocument(pb.WatchDocumentRequest(document_id=document_id), metadata=metadata)
    seen = []
    async with asyncio.timeout(PATIENCE):
        while (response := await call.read()) is not grpc.aio.EOF:
            seen.append(response.document)
    return seen


async def search(stage: Stage, query: str, metadata: Metadata, **fields) -> pb.SearchDocumentsResponse:
    return await stage.knowledge.SearchDocuments(pb.SearchDocumentsRequest(query=query, **fields), metadata=metadata)


async def made(stage: Stage, metadata: Metadata, title: str, *, shared: bool = False) -> Collection:
    request = pb.CreateCollectionRequest(collection=Collection(title=title, shared=shared))
    return (await stage.knowledge.CreateCollection(request, metadata=metadata)).collection
