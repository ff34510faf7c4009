"""Uploads and watches that are cut off go on where they were."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.document_pb2 import (
    DOCUMENT_STATE_EMBEDDING,
    DOCUMENT_STATE_PARSING,
    DOCUMENT_STATE_READY,
    DOCUMENT_STATE_UPLOADING,
    Document,
    DocumentDescription,
)
from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceServicer, add_KnowledgeServiceServicer_to_server
from grpc import StatusCode

from chatrpc.client import CallError, ChatClient, connect
from chatrpc.client.documents import PART
from tests.client.scripted import PATIENCE, QUICK

ID = "0190a0e2-0000-7000-8000-00000000000d"
DATA = os.urandom(5 * PART // 2)
DESCRIPTION = DocumentDescription(title="Manual", media_type="text/plain")


class Shelf(KnowledgeServiceServicer):
    """Stores one document, and cuts streams off: each upload after one part, each watch after one state."""

    def __init__(self, *, cuts: int, refusal: StatusCode = StatusCode.UNAVAILABLE) -> None:
        self.data = b""
        self.offsets: list[int] = []
        self.described: list[DocumentDescription] = []
        self._size = 0
        self._cuts = cuts
        self._refusal = refusal
        self._states = [DOCUMENT_STATE_PARSING, DOCUMENT_STATE_EMBEDDING, DOCUMENT_STATE_READY]

    @property
    def _document(self) -> Document:
        whole = self._size and len(self.data) == self._size
        return Document(
            id=ID,
            received_bytes=len(self.data),
            state=DOCUMENT_STATE_PARSING if whole else DOCUMENT_STATE_UPLOADING,
        )

    async def BeginUpload(self, request, context):  # noqa: N802
        self.described.append(request.description)
        self._size = request.description.size
        return pb.BeginUploadResponse(document=self._document, existing=len(self.data) == self._size)

    async def IngestDocument(self, request_iterator, context):  # noqa: N802
        async for request in request_iterator:
            if request.WhichOneof("piece") == "start":
                self.offsets.append(request.start.offset)
                continue
            self.data += request.data
            if self._cuts:
                self._cuts -= 1
                await context.abort(self._refusal, "cut")
        return pb.IngestDocumentResponse(document=self._document)

    async def WatchDocument(self, request, context):  # noqa: N802
        while self._states:
            yield pb.WatchDocumentResponse(document=Document(id=ID, state=self._states[0]))
            if len(self._states) > 1 and self._cuts:
                self._cuts -= 1
                await context.abort(StatusCode.UNAVAILABLE, "cut")
            self._states.pop(0)


@asynccontextmanager
async def reaching(shelf: Shelf) -> AsyncIterator[ChatClient]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_KnowledgeServiceServicer_to_server(shelf, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE), connect(f"127.0.0.1:{port}", "token", retry=QUICK) as client:
            yield client
    finally:
        await server.stop(None)


@pytest.mark.parametrize("cuts", range(4))
async def test_an_upload_goes_on_where_it_was_cut_off(cuts: int) -> None:
    shelf = Shelf(cuts=cuts)
    async with reaching(shelf) as client:
        document, existing = await client.documents.ingest(DESCRIPTION, DATA)
    assert (document.id, document.state, existing) == (ID, DOCUMENT_STATE_PARSING, False)
    assert shelf.data == DATA
    # The third part is the last: where it is cut off, the next `BeginUpload` finds all bytes there.
    assert shelf.offsets == [0, PART, 2 * PART][: cuts + 1]
    assert {(each.title, each.size, each.sha256) for each in shelf.described} == {
        ("Manual", len(DATA), hashlib.sha256(DATA).hexdigest())
    }


async def test_content_that_is_there_is_not_sent() -> None:
    shelf = Shelf(cuts=0)
    shelf.data = DATA
    async with reaching(shelf) as client:
        assert (await client.documents.ingest(DESCRIPTION, DATA))[1]
    assert shelf.offsets == []


async def test_an_upload_that_is_refused_ends_at_once() -> None:
    shelf = Shelf(cuts=1, refusal=StatusCode.NOT_FOUND)
    async with reaching(shelf) as client:
        with pytest.raises(CallError) as refused:
            await client.documents.ingest(DESCRIPTION, DATA)
    assert (refused.value.code, shelf.offsets) == (StatusCode.NOT_FOUND, [0])


@pytest.mark.parametrize("cuts", range(4))
async def test_a_watch_goes_on_and_tells_each_state_once(cuts: int) -> None:
    async with reaching(Shelf(cuts=cuts)) as client:
        seen = [document.state async for document in client.documents.watch(ID)]
    assert seen == [DOCUMENT_STATE_PARSING, DOCUMENT_STATE_EMBEDDING, DOCUMENT_STATE_READY]
