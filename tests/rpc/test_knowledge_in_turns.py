"""Documents in replies: whoever may read a document is given it and told where from, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc
import pytest_asyncio
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as conversation_pb
from chatapi.v1 import knowledge_service_pb2 as pb
from chatapi.v1.context_report_pb2 import Citation, ContextReport
from chatapi.v1.document_pb2 import Document
from chatapi.v1.message_pb2 import Part, TextPart, TurnSettings

from chatrpc.db.engine import Database
from chatrpc.db.transcript import Transcript
from chatrpc.rpc.identity import user_id_of
from tests.rpc.knowledge import GUIDE, begun, drained, ingested, made, part_of
from tests.rpc.signer import ISSUER
from tests.rpc.stage import PATIENCE, Metadata, Stage, failure, new_id, outgoing, rest, signed_in, staged, told

QUESTION = "How is the boiler descaled?"
OTHER_ISSUER = "https://another-issuer.test"


@dataclass
class Turn:
    """What a question was answered with.

    Attributes:
        prompt: All that the model was given, as one text.
        citations: Of the `completed` event.
        report: What is stored of it.
    """

    reply_id: str
    prompt: str
    citations: list[Citation]
    report: ContextReport


@pytest_asyncio.fixture
async def another(database: Database, issuer_keys: Path) -> AsyncIterator[Stage]:
    """A server over the same database whose users come from another issuer."""
    async with staged(database, issuer_keys, issuer=OTHER_ISSUER) as opened:
        yield opened


@pytest_asyncio.fixture
async def shared(stage: Stage) -> AsyncIterator[Document]:
    """A document of a shared collection, which only its librarian deletes."""
    librarian = signed_in(sub=new_id(), scope="knowledge.write")
    collection = await made(stage, librarian, "Manuals", shared=True)
    document = await ingested(stage, GUIDE, librarian, collection_id=collection.id)
    await drained(stage)
    yield document
    await stage.knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection.id), metadata=librarian)


async def asked(stage: Stage, metadata: Metadata, **fields) -> Turn:
    message = outgoing(await stage.conversation(metadata), QUESTION, **fields)
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=message), metadata=metadata)
    speaker = await stage.model.asked()
    speaker.say("With vinegar [1].")
    speaker.finish()
    completed = (await rest(call))[-1].reply.completed
    request = conversation_pb.GetContextReportRequest(reply_id=completed.message.id)
    report = (await stage.conversations.GetContextReport(request, metadata=metadata)).report
    prompt = "\n".join(each.content for each in speaker.request.prompt)
    return Turn(completed.message.id, prompt, list(completed.citations), report)


def assert_empty(turn: Turn) -> None:
    assert (turn.citations, list(turn.report.retrieved), list(turn.report.dropped)) == ([], [], [])
    assert "vinegar" not in turn.prompt


async def resumed(stage: Stage, metadata: Metadata, reply_id: str) -> list[Citation]:
    call = stage.chat.ResumeReply(chat_pb.ResumeReplyRequest(reply_id=reply_id), metadata=metadata)
    return list((await rest(call))[-1].reply.completed.citations)


async def test_a_shared_document_reaches_every_user_of_the_issuer(stage: Stage, shared: Document) -> None:
    for _ in range(2):
        reader = signed_in(sub=new_id())
        turn = await asked(stage, reader)
        assert "vinegar" in turn.prompt
        [best, *_] = turn.report.retrieved
        assert (best.citation.document_id, best.citation.collection_id) == (shared.id, shared.collection_id)
        assert GUIDE.decode()[best.citation.start : best.citation.end] == best.text
        assert turn.citations[0] == best.citation
        assert await resumed(stage, reader, turn.reply_id) == turn.citations


async def test_nothing_that_is_shared_reaches_a_user_of_another_issuer(
    stage: Stage, another: Stage, shared: Document
) -> None:
    # The subject is that of a user who finds it.
    subject = new_id()
    assert "vinegar" in (await asked(stage, signed_in(sub=subject))).prompt
    foreign = signed_in(sub=subject, iss=OTHER_ISSUER, scope="knowledge.write")
    assert_empty(await asked(another, foreign))
    found = await another.knowledge.SearchDocuments(pb.SearchDocumentsRequest(query=QUESTION), metadata=foreign)
    listed = await another.knowledge.ListCollections(pb.ListCollectionsRequest(), metadata=foreign)
    assert (list(found.passages), list(listed.collections)) == ([], [])
    knowledge, collection_id = another.knowledge, shared.collection_id
    for call in (
        knowledge.GetDocument(pb.GetDocumentRequest(document_id=shared.id), metadata=foreign),
        knowledge.DeleteDocument(pb.DeleteDocumentRequest(document_id=shared.id), metadata=foreign),
        knowledge.DeleteCollection(pb.DeleteCollectionRequest(collection_id=collection_id), metadata=foreign),
        knowledge.SearchDocuments(
            pb.SearchDocumentsRequest(query=QUESTION, collection_ids=[collection_id]), metadata=foreign
        ),
    ):
        assert told(await failure(call)).code is grpc.StatusCode.NOT_FOUND


async def test_a_turn_that_does_not_look_into_documents_is_given_none(stage: Stage, shared: Document) -> None:
    reader = signed_in(sub=new_id())
    await ingested(stage, GUIDE, reader)
    await drained(stage)
    assert_empty(await asked(stage, reader, settings=TurnSettings(documents=False)))
    assert (await asked(stage, reader)).citations


async def test_nothing_of_a_users_document_reaches_another_user(stage: Stage) -> None:
    owner, other = signed_in(sub=new_id()), signed_in(sub=new_id(), scope="knowledge.write")
    document = await ingested(stage, GUIDE, owner)
    await drained(stage)
    turn = await asked(stage, owner)
    assert turn.citations[0].document_id == document.id

    # In turns and previews of the other's own.
    assert_empty(await asked(stage, other))
    parts = [Part(text=TextPart(text=QUESTION))]
    preview = conversation_pb.PreviewContextRequest(conversation_id=await stage.conversation(other), parts=parts)
    assert not (await stage.conversations.PreviewContext(preview, metadata=other)).report.retrieved

    # By the ids of the owner's replies and conversations.
    conversation_id = turn.report.conversation_id
    for call in (
        stage.conversations.GetContextReport(
            conversation_pb.GetContextReportRequest(reply_id=turn.reply_id), metadata=other
        ),
        stage.conversations.PreviewContext(
            conversation_pb.PreviewContextRequest(conversation_id=conversation_id, parts=parts), metadata=other
        ),
        stage.chat.ResumeReply(chat_pb.ResumeReplyRequest(reply_id=turn.reply_id), metadata=other),
        stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation_id, QUESTION)), metadata=other),
    ):
        assert told(await failure(call)).code is grpc.StatusCode.NOT_FOUND


async def test_nothing_of_a_users_upload_reaches_another_user(stage: Stage) -> None:
    owner, other = signed_in(sub=new_id()), signed_in(sub=new_id(), scope="knowledge.write")
    theirs = (await begun(stage, GUIDE, owner)).document
    await stage.knowledge.UploadDocumentPart(part_of(theirs.id, GUIDE, 0, 100), metadata=owner)

    # Who knows the digest of the same content begins from nothing, and cannot complete it with the rest alone.
    own = (await begun(stage, GUIDE, other)).document
    assert (own.received_bytes, own.id != theirs.id) == (0, True)
    rest_of_it = part_of(own.id, GUIDE, 100, len(GUIDE))
    error = told(await failure(stage.knowledge.UploadDocumentPart(rest_of_it, metadata=other)))
    assert (error.reason, error.metadata["received"]) == ("UPLOAD_INCOMPLETE", "0")
    into_theirs = part_of(theirs.id, GUIDE, 100, len(GUIDE))
    error = told(await failure(stage.knowledge.UploadDocumentPart(into_theirs, metadata=other)))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "DOCUMENT_NOT_FOUND")
    assert (await begun(stage, GUIDE, owner)).document.received_bytes == 100


async def test_a_page_token_of_another_user_is_refused(stage: Stage) -> None:
    owner, other = signed_in(sub=new_id()), signed_in(sub=new_id())
    for data in (b"one", b"two"):
        await begun(stage, data, owner)
    first = await stage.knowledge.ListDocuments(pb.ListDocumentsRequest(page_size=1), metadata=owner)
    assert first.next_page_token
    request = pb.ListDocumentsRequest(page_size=1, page_token=first.next_page_token)
    error = told(await failure(stage.knowledge.ListDocuments(request, metadata=other)))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_a_reply_that_another_process_takes_over_is_given_shared_documents(
    database: Database, issuer_keys: Path, stage: Stage, shared: Document
) -> None:
    subject = new_id()
    reader = signed_in(sub=subject)
    message = outgoing(await stage.conversation(reader), QUESTION)
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=message), metadata=reader)
    await stage.model.asked()
    accepted = (await asyncio.wait_for(call.read(), PATIENCE)).accepted
    reply_id = accepted.reply_id
    async with staged(database, issuer_keys) as second:
        owner = await Transcript(database).owner(user_id_of(ISSUER, subject), UUID(reply_id))
        async with database.unbound() as connection:
            await connection.execute("UPDATE server_processes SET lease_until = now() WHERE id = %s", (owner,))
        assert await second.takeover.sweep() == 1
        speaker = await asyncio.wait_for(second.model.asked(), PATIENCE)
        assert "vinegar" in "\n".join(each.content for each in speaker.request.prompt)
        speaker.say("With vinegar [1].")
        speaker.finish()
        [cited, *_] = await resumed(second, reader, reply_id)
    assert cited.document_id == shared.id
