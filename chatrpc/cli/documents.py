"""`chatrpc documents`: external documents as memory."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path

import click
from chatapi.v1.context_report_pb2 import Citation
from chatapi.v1.document_pb2 import DOCUMENT_STATE_FAILED, Document, DocumentDescription, DocumentState
from chatapi.v1.knowledge_service_pb2 import (
    DeleteDocumentRequest,
    ListDocumentsRequest,
    SearchDocumentsRequest,
)

from chatrpc.cli.access import Access, needs_access
from chatrpc.cli.terminal import printable
from chatrpc.client import CallError, ChatClient, StatusCode
from chatrpc.domain import counted

# Files whose type no system table is sure to know.
_MARKDOWN = (".md", ".markdown")
_SHOWN_CHARACTERS = 400
# What people are told of a failed document; other reasons are told by their names.
_PROBLEMS = {
    "DOCUMENT_BROKEN": "it is damaged, encrypted, or not what its media type says; give --type if that is wrong",
    "DOCUMENT_TOO_COSTLY": "to read it took more time or memory, or gave more text, than the server allows; split it",
    "DOCUMENT_EMPTY": "there is no text in it, as in a scan; recognise its text first",
}


@click.group()
def documents() -> None:
    """Add documents to what is remembered; list, search, watch and delete them."""


@documents.command()
@needs_access
@click.option("--collection", "collection_id", default="", help="Id of the collection that they belong to.")
@click.option("--title", default="", help="Title of a single file; by default, the one that it gives itself.")
@click.option("--type", "media_type", default="", help="Media type; by default, by the file's name.")
@click.option("--no-wait", is_flag=True, help="Return once they are uploaded, before they can be found.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def add(
    access: Access, collection_id: str, title: str, media_type: str, no_wait: bool, files: tuple[Path, ...]
) -> None:
    """Ingest FILES: plain text, Markdown, HTML or PDF. What was cut off goes on when the command is repeated."""
    if title and len(files) > 1:
        raise click.UsageError("--title belongs to a single file.")
    failed: list[Path] = []

    async def ingest() -> None:
        async with access.client() as client:
            for file in files:
                if not file.stat().st_size:
                    click.echo(f"{file}: the file is empty.", err=True)
                    failed.append(file)
                    continue
                description = describe(file, title, media_type, collection_id)
                try:
                    ready = await _add(client, file, description, wait=not no_wait)
                except CallError as error:
                    if error.temporary or error.code is StatusCode.UNAUTHENTICATED:
                        raise
                    click.echo(f"{file}: {access.problem(error)}", err=True)
                    ready = False
                if not ready:
                    failed.append(file)

    access.run(ingest())
    if failed:
        raise click.ClickException(f"{len(failed)} of {counted(len(files), 'document')} could not be ingested.")


@documents.command("list")
@needs_access
@click.option("--collection", "collection_id", default="", help="Only those of this collection.")
def list_(access: Access, collection_id: str) -> None:
    """List documents, the newest first."""

    async def tell() -> None:
        async with access.client() as client:
            request = ListDocumentsRequest(page_size=100, collection_id=collection_id)
            while True:
                page = await client.call(client.knowledge.ListDocuments, request)
                for document in page.documents:
                    click.echo(printable(_line(document)))
                if not page.next_page_token:
                    # Only the first page can be empty without another behind it.
                    if not page.documents and not request.page_token:
                        click.echo("There are no documents.")
                    return
                request.page_token = page.next_page_token

    access.run(tell())


@documents.command()
@needs_access
@click.argument("document_ids", nargs=-1, required=True)
def delete(access: Access, document_ids: tuple[str, ...]) -> None:
    """Delete documents with all that was derived from them."""

    async def remove() -> None:
        async with access.client() as client:
            for document_id in document_ids:
                receipt = await client.call(
                    client.knowledge.DeleteDocument, DeleteDocumentRequest(document_id=document_id)
                )
                click.echo(
                    f"{document_id}: removed {counted(receipt.chunks, 'chunk')}, "
                    f"{counted(receipt.vectors, 'vector')}, {counted(receipt.uploaded_bytes, 'uploaded byte')}"
                )

    access.run(remove())


@documents.command()
@needs_access
@click.option("--collection", "collection_ids", multiple=True, help="Only in this collection; may be repeated.")
@click.option("-n", "number", default=5, show_default=True, type=click.IntRange(1, 100), help="Passages at most.")
@click.argument("query")
def search(access: Access, collection_ids: tuple[str, ...], number: int, query: str) -> None:
    """Find the passages that QUERY is about."""

    async def tell() -> None:
        async with access.client() as client:
            request = SearchDocumentsRequest(query=query, max_results=number, collection_ids=collection_ids)
            found = await client.call(client.knowledge.SearchDocuments, request)
        for passage in found.passages:
            click.secho(
                printable(f"{passage.rank}. {_place(passage.citation)}  cosine {passage.cosine:.2f}"), bold=True
            )
            click.echo(printable(_shortened(passage.text)))
        if not found.passages:
            click.echo("Nothing was found.")

    access.run(tell())


@documents.command()
@needs_access
@click.argument("document_id")
def watch(access: Access, document_id: str) -> None:
    """Tell what becomes of a document until it is ready or failed."""

    async def tell() -> None:
        async with access.client() as client:
            await _watch(client, document_id)

    access.run(tell())


def describe(file: Path, title: str, media_type: str, collection_id: str) -> DocumentDescription:
    """What is told of a file. Where it lies is for its owner alone: what is in a collection may be read by others."""
    return DocumentDescription(
        title=title,
        media_type=media_type or _media_type(file),
        collection_id=collection_id,
        uri="" if collection_id else file.resolve().as_uri(),
    )


async def _add(client: ChatClient, file: Path, description: DocumentDescription, *, wait: bool) -> bool:
    data = await asyncio.to_thread(file.read_bytes)
    document, existing = await client.documents.ingest(description, data)
    click.echo(printable(f"{file}: {document.id}{' (was there already)' if existing else ''}"))
    return not wait or await _watch(client, document.id)


async def _watch(client: ChatClient, document_id: str) -> bool:
    """Whether it is ready in the end."""
    document = Document()
    async with aclosing(client.documents.watch(document_id)) as changes:
        async for document in changes:
            click.echo(printable(f"  {progress(document)}"))
    return document.state != DOCUMENT_STATE_FAILED


def _media_type(file: Path) -> str:
    if file.suffix.lower() in _MARKDOWN:
        return "text/markdown"
    return mimetypes.guess_type(file.name)[0] or "text/plain"


def _line(document: Document) -> str:
    shared = " (shared)" if document.shared else ""
    title, size = document.title or "(untitled)", counted(document.size, "byte")
    return f"{document.id}  {title}{shared}  {size}  {progress(document)}"


def progress(document: Document) -> str:
    """How far a document has come, or what is wrong with it."""
    state = DocumentState.Name(document.state).removeprefix("DOCUMENT_STATE_").lower()
    if document.error_reason:
        return f"{state}: {_PROBLEMS.get(document.error_reason, document.error_reason)}"
    if document.chunk_count:
        return f"{state} {document.embedded_chunk_count:,}/{counted(document.chunk_count, 'chunk')}"
    return state


def _place(citation: Citation) -> str:
    parts: Iterable[str] = (citation.title or citation.document_id, *citation.headings)
    page = f", page {citation.page}" if citation.page else ""
    return f"{' > '.join(dict.fromkeys(parts))}{page}, characters {citation.start:,}-{citation.end:,}"


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS].rstrip() + " …"
