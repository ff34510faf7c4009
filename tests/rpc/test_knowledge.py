"""KnowledgeService over the wire and a real database: uploads, progress, search, deletion."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from chatapi.v1 import document_pb2
from chatapi.v1 import knowledge_service_pb2 as pb

from chatrpc.db.engine import Database
from tests.rpc.knowledge import GUIDE, begun, described, drained, ingested, made, part_of, search, start_of, watched
from tests.rpc.stage import Metadata, Stage, failure, new_id, signed_in, told

PART = 20


@pytest.fixture
def somebody() -> Metadata:
    """A user of this test alone."""
    return signed_in(sub=new_id())


async def test_a_document_is_ingested_watched_and_found_with_its_place(stage: Stage, somebody: Metadata) -> None:
    document = await ingested(stage, GUIDE, somebody, title="Guide", uri="https://a.test/guide", labels={"team": "a"})
    assert document.state == document_pb2.DOCUMENT_STATE_PARSING
    watching = asyncio.create_task(watched(stage, document.id, somebody))
    await drained(stage)
    states = [seen.state for seen in await watching]
    assert states[-1] == document_pb2.DOCUMENT_STATE_READY
    assert states == sorted(states)
    read = (
        await stage.knowledge.GetDocument(pb.GetDocumentRequest(document_id=document.id), metadata=somebody)
    ).document
    assert (read.title, read.uri, dict(read.labels)) == ("Guide", "https://a.test/guide", {"team": "a"})
    assert (read.character_count, read.chunk_count, read.embedded_chunk_count) == (len(GUIDE), 3, 3)

    [best, *_] = (await search(stage, "How is the boiler descaled?", somebody)).passages
    assert "vinegar" in best.text
    cited = best.citation
    assert (cited.document_id, cited.title, list(cited.headings)) == (document.id, "Guide", ["Guide", "Boiler"])
    assert GUIDE.decode()[cited.start : cited.end] == best.text
    assert (best.rank, best.message_id) == (1, "")


async def test_an_upload_that_was_cut_off_goes_on(stage: Stage, somebody: Metadata) -> None:
    async def cut_off() -> AsyncIterator[pb.IngestDocumentRequest]:
        yield start_of(GUIDE)
        yield pb.IngestDocumentRequest(data=GUIDE[:PART])
        await asyncio.Event().wait()

    call = stage.knowledge.IngestDocument(cut_off(), metadata=somebody)
    begun_before = await begun(stage, GUIDE, somebody)
    while begun_before.document.received_bytes < PART:
        begun_before = await begun(stage, GUIDE, somebody)
    call.cancel()
    assert not begun_before.existing

    document = await ingested(stage, GUIDE, somebody, offset=PART)
    assert (document.id, document.state) == (begun_before.document.id, document_pb2.DOCUMENT_STATE_PARSING)


async def test_a_stream_that_ends_too_early_keeps_what_it_had(stage: Stage, somebody: Metadata) -> None:
    requests = [start_of(GUIDE), pb.IngestDocumentRequest(data=GUIDE[:PART])]
    error = told(await failure(stage.knowledge.IngestDocument(iter(requests), metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    assert error.metadata["received"] == str(PART)
    assert (await begun(stage, GUIDE, somebody)).document.received_bytes == PART


async def test_a_document_is_uploaded_part_by_part_and_parts_may_be_repeated(stage: Stage, somebody: Metadata) -> None:
    document = (await begun(stage, GUIDE, somebody)).document
    for offset in range(0, len(GUIDE), PART):
        for _ in range(2):
            request = part_of(document.id, GUIDE, offset, PART)
            document = (await stage.knowledge.UploadDocumentPart(request, metadata=somebody)).document
    assert document.state == document_pb2.DOCUMENT_STATE_PARSING
    await drained(stage)
    again = await begun(stage, GUIDE, somebody)
    assert (again.existing, again.document.state) == (True, document_pb2.DOCUMENT_STATE_READY)


async def test_a_part_beyond_what_has_arrived_is_refused(stage: Stage, somebody: Metadata) -> None:
    document = (await begun(stage, GUIDE, somebody)).document
    request = part_of(document.id, GUIDE, PART, PART)
    error = told(await failure(stage.knowledge.UploadDocumentPart(request, metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    assert error.metadata == {"id": document.id, "received": "0"}


async def test_more_bytes_than_announced_are_refused(stage: Stage, somebody: Metadata) -> None:
    document = (await begun(stage, GUIDE, somebody)).document
    request = pb.UploadDocumentPartRequest(document_id=document.id, data=GUIDE + b"x")
    error = told(await failure(stage.knowledge.UploadDocumentPart(request, metadata=somebody)))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["data"])


async def test_bytes_with_another_digest_are_discarded(stage: Stage, somebody: Metadata) -> None:
    document = (await begun(stage, GUIDE, somebody)).document
    request = pb.UploadDocumentPartRequest(document_id=document.id, data=GUIDE[::-1])
    error = told(await failure(stage.knowledge.UploadDocumentPart(request, metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTENT_MISMATCH")
    assert (await begun(stage, GUIDE, somebody)).document.id != document.id


async def test_the_same_content_again_costs_nothing(stage: Stage, somebody: Metadata) -> None:
    first = await ingested(stage, GUIDE, somebody)
    await drained(stage)

    def requests() -> Iterator[pb.IngestDocumentRequest]:
        yield start_of(GUIDE, title="Another title")
        yield pb.IngestDocumentRequest(data=GUIDE)

    again = await stage.knowledge.IngestDocument(requests(), metadata=somebody)
    assert (again.existing, again.document.id, again.document.title) == (True, first.id, "Guide")
    assert again.document.state == document_pb2.DOCUMENT_STATE_READY
    assert await stage.ingest.drain() == 0


async def test_the_document_names_itself_where_the_client_does_not(stage: Stage, somebody: Metadata) -> None:
    document = await ingested(stage, GUIDE, somebody)
    assert document.title == ""
    await drained(stage)
    assert (await begun(stage, GUIDE, somebody)).document.title == "Guide"


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"media_type": "application/zip"}, "description.media_type", "MEDIA_TYPE_UNSUPPORTED"),
        ({"size": 21 * 1024 * 1024}, "description.size", "DOCUMENT_TOO_LARGE"),
        ({"sha256": "abc"}, "description.sha256", "INVALID_FIELD"),
        ({"size": 0}, "description.size", "INVALID_FIELD"),
        ({"title": "x" * 257}, "description.title", "INVALID_FIELD"),
        ({"labels": {"Upper": "x"}}, 'description.labels["Upper"]', "INVALID_FIELD"),
    ],
)
async def test_a_description_that_cannot_be_is_refused(
    stage: Stage, somebody: Metadata, fields: dict, field: str, reason: str
) -> None:
    request = pb.BeginUploadRequest(description=described(GUIDE, **fields))
    error = told(await failure(stage.knowledge.BeginUpload(request, metadata=somebody)))
    assert (error.code, error.fields, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, [field], reason)


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.IngestDocumentRequest(data=b"x")],
        [start_of(GUIDE), start_of(GUIDE)],
        [pb.IngestDocumentRequest()],
    ],
    ids=["nothing", "data first", "two starts", "no piece"],
)
async def test_a_stream_out_of_order_is_refused(
    stage: Stage, somebody: Metadata, requests: list[pb.IngestDocumentRequest]
) -> None:
    error = told(await failure(stage.knowledge.IngestDocument(iter(requests), metadata=somebody)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_broken_document_fails_with_a_reason_and_can_be_tried_again(
    stage: Stage, somebody: Metadata, database: Database
) -> None:
    broken = b"\x80\x81 is no text"
    document = await ingested(stage, broken, somebody, media_type="text/plain")
    await drained(stage)
    [*_, last] = await watched(stage, document.id, somebody)
    assert (last.state, last.error_reason) == (document_pb2.DOCUMENT_STATE_FAILED, "DOCUMENT_BROKEN")
    again = await begun(stage, broken, somebody, media_type="text/plain")
    assert (again.existing, again.document.id, again.document.received_bytes) == (False, document.id, 0)


async def test_documents_are_listed_page_by_page_by_collection_and_label(stage: Stage, somebody: Metadata) -> None:
    collection = await made(stage, somebody, "Manuals")
    for number in range(3):
        await begun(stage, b"%d" % number, somebody, labels={"number": str(number)})
    await begun(stage, b"3", somebody, collection_id=collection.id)
    request, sizes = pb.ListDocumentsRequest(page_size=3), []
    while True:
        page = await stage.knowledge.ListDocuments(request, metadata=somebody)
        sizes.append([document.sha256 for document in page.documents])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sizes == [[sha(b"3"), sha(b"2"), sha(b"1")], [sha(b"0")]]
    labelled = pb.ListDocumentsRequest(labels={"number": "1"})
    assert [d.sha256 for d in (await stage.knowledge.ListDocuments(labelled, metadata=somebody)).documents] == [
        sha(b"1")
    ]
    within = pb.ListDocumentsRequest(collection_id=collection.id)
    assert [d.sha256 for d in (await stage.knowledge.ListDocuments(within, metadata=somebody)).documents] == [sha(b"3")]


async def test_a_deleted_document_leaves_nothing(stage: Stage, somebody: Metadata, database: Database) -> None:
    document = await ingested(stage, GUIDE, somebody)
    await drained(stage)
    upload = (await begun(stage, b"some text", somebody)).document
    await stage.knowledge.UploadDocumentPart(part_of(upload.id, b"some text", 0, 4), metadata=somebody)

    receipt = await stage.knowledge.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.id), metadata=somebody)
    assert (receipt.chunks, receipt.vectors, receipt.uploaded_bytes) == (3, 3, 0)
    receipt = await stage.knowledge.DeleteDocument(pb.DeleteDocumentRequest(document_id=upload.id), metadata=somebody)
    assert (receipt.chunks, receipt.vectors, receipt.uploaded_bytes) == (0, 0, 4)
    assert (await search(stage, "How is the boiler descaled?", somebody)).passages == []
    get = pb.GetDocumentRequest(document_id=document.id)
    assert told(await failure(stage.knowledge.GetDocument(get, metadata=somebody))).reason == "DOCUMENT_NOT_FOUND"


async def test_the_watch_of_a_deleted_document_ends(stage: Stage, somebody: Metadata) -> None:
    document = (await begun(stage, GUIDE, somebody)).document
    call = stage.knowledge.WatchDocument(pb.WatchDocumentRequest(document_id=document.id), metadata=somebody)
    assert (await call.read()).document == document
    await stage.knowledge.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.id), metadata=somebody)
    assert told(await failure(call)).reason == "DOCUMENT_NOT_FOUND"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
