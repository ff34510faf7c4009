"""Whose documents they are: another user's are not there, and shared ones are read by all and written by few."""

from __future__ import annotations

from uuid import UUID

import grpc
import psycopg
import pytest
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from chatapi.v1 import document_pb2
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.context_report_pb2 import RETRIEVAL_OUTCOME_FOUND
from chatapi.v1.document_pb2 import Collection
from chatapi.v1.message_pb2 import Part, TextPart

from chatrpc.db.engine import Database
from chatrpc.rpc.identity import shared_id_of, user_id_of
from tests.rpc.knowledge import GUIDE, begun, described, drained, ingested, made, part_of, search, start_of
from tests.rpc.signer import ISSUER
from tests.rpc.stage import Metadata, Stage, failure, new_id, signed_in, told

QUESTION = "How is the boiler descaled?"
TABLES = ("documents", "document_chunks", "document_parts", "document_tasks", "collections", "embeddings")


@pytest.fixture
def somebody() -> Metadata:
    return signed_in(sub=new_id())


@pytest.fixture
def librarian() -> Metadata:
    return signed_in(sub=new_id(), scope="knowledge.write")


def calls_on(document_id: str) -> list[tuple[str, object]]:
    return [
        ("GetDocument", pb.GetDocumentRequest(document_id=document_id)),
        ("WatchDocument", pb.WatchDocumentRequest(document_id=document_id)),
        ("DeleteDocument", pb.DeleteDocumentRequest(document_id=document_id)),
        ("UploadDocumentPart", part_of(document_id, GUIDE, 0, 10)),
    ]


async def test_another_users_document_is_not_found(stage: Stage, somebody: Metadata) -> None:
    document = await ingested(stage, GUIDE, somebody)
    await drained(stage)
    other = signed_in(sub=new_id(), scope="knowledge.write")
    for method, request in calls_on(document.id):
        error = told(await failure(getattr(stage.knowledge, method)(request, metadata=other)))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "DOCUMENT_NOT_FOUND"), method
    assert not (await stage.knowledge.ListDocuments(pb.ListDocumentsRequest(), metadata=other)).documents
    own = [passage.citation.document_id for passage in (await search(stage, QUESTION, other)).passages]
    assert document.id not in own
    # The content is no key to it either.
    assert (await begun(stage, GUIDE, other)).document.id != document.id


async def test_another_users_collection_is_not_found(stage: Stage, somebody: Metadata) -> None:
    collection = await made(stage, somebody, "Mine")
    other = signed_in(sub=new_id(), scope="knowledge.write")
    for call in (
        stage.knowledge.BeginUpload(
            pb.BeginUploadRequest(description=described(GUIDE, collection_id=collection.id)), metadata=other
        ),
        stage.knowledge.ListDocuments(pb.ListDocumentsRequest(collection_id=collection.id), metadata=other),
        stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=other),
        stage.knowledge.SearchDocuments(
            pb.SearchDocumentsRequest(query=QUESTION, collection_ids=[collection.id]), metadata=other
        ),
    ):
        error = told(await failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")
    listed = await stage.knowledge.ListCollections(pb.ListCollectionsRequest(page_size=1_000), metadata=other)
    assert collection.id not in [each.id for each in listed.collections]


async def test_all_users_read_what_a_token_with_the_scope_has_shared(
    stage: Stage, somebody: Metadata, librarian: Metadata
) -> None:
    collection = await made(stage, librarian, "Manuals", shared=True)
    document = await ingested(stage, GUIDE, librarian, collection_id=collection.id)
    await drained(stage)
    assert (collection.shared, document.shared) == (True, True)
    read = await stage.knowledge.GetDocument(pb.GetDocumentRequest(document_id=document.id), metadata=somebody)
    assert read.document.state == document_pb2.DOCUMENT_STATE_READY
    listing = pb.ListDocumentsRequest(collection_id=collection.id)
    [listed] = (await stage.knowledge.ListDocuments(listing, metadata=somebody)).documents
    collections = await stage.knowledge.ListCollections(pb.ListCollectionsRequest(), metadata=somebody)
    assert (listed.id, collections.collections[0].id) == (document.id, collection.id)

    [best, *_] = (await search(stage, QUESTION, somebody, collection_ids=[collection.id])).passages
    assert (best.citation.document_id, best.citation.collection_id) == (document.id, collection.id)
    # They are no documents of the user's own.
    assert not (await stage.knowledge.ListDocuments(pb.ListDocumentsRequest(), metadata=somebody)).documents
    await stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=librarian)


async def test_a_conversation_retrieves_from_shared_documents(
    stage: Stage, somebody: Metadata, librarian: Metadata
) -> None:
    collection = await made(stage, librarian, "Manuals", shared=True)
    document = await ingested(stage, GUIDE, librarian, collection_id=collection.id)
    await drained(stage)
    request = conversation_pb.PreviewContextRequest(
        conversation_id=await stage.conversation(somebody), parts=[Part(text=TextPart(text=QUESTION))]
    )
    report = (await stage.conversations.PreviewContext(request, metadata=somebody)).report
    assert report.retrieval == RETRIEVAL_OUTCOME_FOUND
    [best, *_] = report.retrieved
    assert (best.citation.document_id, list(best.citation.headings)) == (document.id, ["Guide", "Boiler"])
    await stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=librarian)


async def test_a_token_without_the_scope_writes_nothing_that_is_shared(
    stage: Stage, somebody: Metadata, librarian: Metadata
) -> None:
    collection = await made(stage, librarian, "Manuals", shared=True)
    document = (await begun(stage, GUIDE, librarian, collection_id=collection.id)).document
    upload = start_of(GUIDE, collection_id=collection.id)
    calls = [
        stage.knowledge.CreateCollection(
            pb.CreateCollectionRequest(collection=Collection(title="x", shared=True)), metadata=somebody
        ),
        stage.knowledge.BeginUpload(
            pb.BeginUploadRequest(description=described(GUIDE, collection_id=collection.id)), metadata=somebody
        ),
        stage.knowledge.IngestDocument(iter([upload]), metadata=somebody),
        stage.knowledge.UploadDocumentPart(part_of(document.id, GUIDE, 0, 10), metadata=somebody),
        stage.knowledge.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.id), metadata=somebody),
        stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=somebody),
    ]
    for call in calls:
        error = told(await failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
        assert error.metadata == {"scope": "knowledge.write"}
    receipt = await stage.knowledge.DeleteCollection(
        pb.DeleteCollectionRequest(collection_id=collection.id), metadata=librarian
    )
    assert receipt.documents == 1


async def test_a_deleted_collection_takes_its_documents_along(stage: Stage, somebody: Metadata) -> None:
    collection = await made(stage, somebody, "Mine")
    document = await ingested(stage, GUIDE, somebody, collection_id=collection.id)
    await drained(stage)
    upload = (await begun(stage, b"text", somebody, collection_id=collection.id)).document
    await stage.knowledge.UploadDocumentPart(part_of(upload.id, b"text", 0, 3), metadata=somebody)
    kept = (await begun(stage, GUIDE, somebody)).document
    request = pb.DeleteCollectionRequest(collection_id=collection.id)
    receipt = await stage.knowledge.DeleteCollection(request, metadata=somebody)
    assert (receipt.documents, receipt.chunks, receipt.vectors, receipt.uploaded_bytes) == (2, 3, 3, 3)
    listed = (await stage.knowledge.ListDocuments(pb.ListDocumentsRequest(), metadata=somebody)).documents
    assert [each.id for each in listed] == [kept.id]
    assert document.id != kept.id


async def test_a_repeated_request_id_creates_a_collection_once(stage: Stage, somebody: Metadata) -> None:
    request = pb.CreateCollectionRequest(collection=Collection(title="Mine"), request_id="r-1")
    first, second = [await stage.knowledge.CreateCollection(request, metadata=somebody) for _ in range(2)]
    assert first == second
    request.collection.title = "Another"
    error = told(await failure(stage.knowledge.CreateCollection(request, metadata=somebody)))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_collections_are_listed_page_by_page(stage: Stage, somebody: Metadata) -> None:
    own = [(await made(stage, somebody, f"Mine {number}")).id for number in range(3)]
    request, seen = pb.ListCollectionsRequest(page_size=2), []
    while True:
        page = await stage.knowledge.ListCollections(request, metadata=somebody)
        seen += [collection.id for collection in page.collections if not collection.shared]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == own[::-1]


@pytest.mark.parametrize("table", TABLES)
async def test_row_level_security_shows_a_user_their_own_and_what_is_shared(
    stage: Stage, database: Database, table: str
) -> None:
    shared = shared_id_of(ISSUER)
    subject, writer = new_id(), signed_in(sub=new_id(), scope="knowledge.write")
    owner, reader = user_id_of(ISSUER, subject), UUID(new_id())
    collection = await made(stage, writer, "Manuals", shared=True)
    own = await made(stage, signed_in(sub=subject), "Mine")
    for metadata, collection_id in ((signed_in(sub=subject), own.id), (writer, collection.id)):
        await ingested(stage, GUIDE, metadata, collection_id=collection_id)
        await drained(stage)
        upload = (await begun(stage, b"under way", metadata, collection_id=collection_id)).document
        await stage.knowledge.UploadDocumentPart(part_of(upload.id, b"under way", 0, 5), metadata=metadata)

    count = (f"SELECT count(*) AS n FROM {table} WHERE user_id = %s", (owner,))
    [mine] = await database.query(owner, count)
    [hidden] = await database.query(reader, count)
    assert (mine[0]["n"] > 0, hidden[0]["n"]) == (True, 0)

    as_reader = ("SELECT set_config('chatrpc.shared_id', %s, true)", (str(shared),))
    _, rows = await database.query(reader, as_reader, (count[0], (shared,)))
    # Bytes on their way and work to be done concern nobody but the owner.
    assert (rows[0]["n"] > 0) == (table not in ("document_parts", "document_tasks"))
    forbidden = (f"DELETE FROM {table} WHERE user_id = %s RETURNING 1", (shared,))
    _, gone = await database.query(reader, as_reader, forbidden)
    assert gone == []
    await stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=writer)


async def test_row_level_security_refuses_rows_for_the_shared_owner(database: Database) -> None:
    shared = shared_id_of(ISSUER)
    statements = (
        ("SELECT set_config('chatrpc.shared_id', %s, true)", (str(shared),)),
        ("INSERT INTO collections (user_id, id, title) VALUES (%s, %s, '')", (shared, UUID(new_id()))),
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.query(UUID(new_id()), *statements)
