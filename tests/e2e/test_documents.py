"""Documents through Envoy, with the packaged model: from the terminal, from a stream, and cited in a reply."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.chat_service_pb2 import SendMessageRequest
from chatapi.v1.document_pb2 import DOCUMENT_STATE_READY, Collection, Document, DocumentDescription
from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceStub
from chatapi.v1.message_pb2 import OutgoingMessage, Part, TextPart

from chatrpc.client import connect
from tests.e2e.stack import PATIENCE, SCRIPTS, Client, Dev, client, environment, signed
from tests.support.pdf import pdf_of

MANUAL = """# Cabin manual

## Boiler

Descale the boiler every spring with vinegar, then rinse it twice with warm water.

## Roof

The larch shingles of the roof were laid after the storm of 2019.
"""
QUESTION = "How do I descale the boiler?"


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    path = tmp_path / "manual.md"
    path.write_text(MANUAL)
    return path


@pytest_asyncio.fixture
async def person(dev: Dev, token: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(dev.edge) as channel:
        yield client(channel, token)


def documents(dev: Dev, token: str, *arguments: str, code: int = 0) -> str:
    command, *rest = arguments
    done = subprocess.run(
        [SCRIPTS / "chatrpc", "documents", command, "--endpoint", dev.endpoint, "--token", token, *rest],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_documents_are_added_listed_searched_and_deleted_in_the_terminal(
    dev: Dev, token: str, manual: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.pdf"
    report.write_bytes(pdf_of(["Yearly report\nThe harvest of apples doubled."], title="Report"))
    added = documents(dev, token, "add", str(manual), str(report))
    assert added.count("ready 1/1 chunk\n") == 1
    assert "ready 2/2 chunks" in added
    assert "(was there already)" in documents(dev, token, "add", str(manual))
    listed = documents(dev, token, "list").splitlines()
    assert [("Report" in line, "Cabin manual" in line) for line in listed] == [(True, False), (False, True)]
    found = documents(dev, token, "search", "-n", "1", QUESTION)
    assert "1. Cabin manual > Boiler, characters" in found
    assert "vinegar" in found
    assert "Report, page 1" in documents(dev, token, "search", "How were the apples?")
    document_id = listed[1].split()[0]
    assert "ready 2/2" in documents(dev, token, "watch", document_id)
    assert "removed 2 chunks, 2 vectors" in documents(dev, token, "delete", document_id)
    assert "vinegar" not in documents(dev, token, "search", QUESTION)
    assert "does not exist" in documents(dev, token, "watch", document_id, code=1)


def test_the_terminal_says_why_a_document_could_not_be_ingested(dev: Dev, token: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 no more")
    assert "1 of 1 document could not be ingested" in documents(dev, token, "add", str(broken), code=1)
    assert "it is damaged, encrypted, or not what" in documents(dev, token, "list")
    archive = tmp_path / "archive.zip"
    archive.write_bytes(b"PK")
    assert "Documents can be text/plain" in documents(dev, token, "add", str(archive), code=1)


async def test_a_reply_cites_the_document_that_it_was_given(dev: Dev, person: Client, token: str) -> None:
    async with connect(dev.endpoint, token) as connected:
        description = DocumentDescription(title="Manual", media_type="text/markdown")
        document, _ = await connected.documents.ingest(description, MANUAL.encode())
        async with asyncio.timeout(PATIENCE):
            *_, ready = [seen async for seen in connected.documents.watch(document.id)]
    assert ready.state == DOCUMENT_STATE_READY
    message = OutgoingMessage(
        conversation_id=await person.conversation(),
        client_message_id=str(uuid4()),
        parts=[Part(text=TextPart(text=QUESTION))],
    )
    call = person.chat.SendMessage(SendMessageRequest(message=message), metadata=person.metadata)
    async with asyncio.timeout(PATIENCE):
        *_, last = [event async for event in call]
    [cited, *_] = last.reply.completed.citations
    assert (cited.document_id, list(cited.headings)) == (document.id, ["Cabin manual", "Boiler"])
    assert "vinegar" in MANUAL[cited.start : cited.end]


async def test_shared_documents_are_found_by_all_and_written_with_the_scope(dev: Dev, person: Client) -> None:
    writer = signed(dev.token_of("librarian", scopes=("knowledge.write",)))
    async with grpc.aio.insecure_channel(dev.edge) as channel:
        knowledge = KnowledgeServiceStub(channel)
        request = pb.CreateCollectionRequest(collection=Collection(title="Manuals", shared=True))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await knowledge.CreateCollection(request, metadata=person.metadata)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        collection = (await knowledge.CreateCollection(request, metadata=writer)).collection
        try:
            document = await ingested(knowledge, collection.id, writer)
            search = pb.SearchDocumentsRequest(query=QUESTION, max_results=1)
            [found] = (await knowledge.SearchDocuments(search, metadata=person.metadata)).passages
            assert (found.citation.document_id, found.citation.collection_id) == (document.id, collection.id)
        finally:
            await knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=writer)


async def ingested(knowledge: KnowledgeServiceStub, collection_id: str, metadata: tuple) -> Document:
    data = MANUAL.encode()
    description = DocumentDescription(
        media_type="text/markdown",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        collection_id=collection_id,
    )

    def requests() -> Iterator[pb.IngestDocumentRequest]:
        yield pb.IngestDocumentRequest(start=pb.IngestStart(description=description))
        yield pb.IngestDocumentRequest(data=data)

    document = (await knowledge.IngestDocument(requests(), metadata=metadata)).document
    watch = knowledge.WatchDocument(pb.WatchDocumentRequest(document_id=document.id), metadata=metadata)
    async with asyncio.timeout(PATIENCE):
        states = [response.document.state async for response in watch]
    assert states[-1] == DOCUMENT_STATE_READY
    return document
