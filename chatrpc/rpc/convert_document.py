"""Documents and collections between `chatapi.v1` and the domain."""

from __future__ import annotations

from uuid import UUID

from chatapi.v1 import document_pb2

from chatrpc.domain import Collection, Document, DocumentState, NewDocument
from chatrpc.rpc.convert import optional_id, timestamp

_STATES = {state: document_pb2.DocumentState.Value(f"DOCUMENT_STATE_{state.name}") for state in DocumentState}


def description_from_proto(description: document_pb2.DocumentDescription) -> NewDocument:
    return NewDocument(
        title=description.title,
        media_type=description.media_type.strip().lower(),
        size=description.size,
        sha256=bytes.fromhex(description.sha256),
        collection_id=UUID(description.collection_id) if description.collection_id else None,
        uri=description.uri,
        labels=dict(description.labels),
    )


def document_to_proto(document: Document, shared_id: UUID) -> document_pb2.Document:
    """Args: shared_id: Owner of the shared collections."""
    return document_pb2.Document(
        id=str(document.id),
        collection_id=optional_id(document.collection_id),
        shared=document.owner_id == shared_id,
        title=document.title,
        media_type=document.media_type,
        uri=document.uri,
        labels=document.labels,
        size=document.size,
        sha256=document.sha256.hex(),
        state=_STATES[document.state],
        error_reason=document.error_reason or "",
        received_bytes=document.received,
        character_count=document.characters,
        page_count=document.pages,
        chunk_count=document.chunks,
        embedded_chunk_count=document.embedded_chunks,
        create_time=timestamp(document.created_at),
        update_time=timestamp(document.updated_at),
    )


def collection_to_proto(collection: Collection, shared_id: UUID) -> document_pb2.Collection:
    """Args: shared_id: Owner of the shared collections."""
    return document_pb2.Collection(
        id=str(collection.id),
        title=collection.title,
        shared=collection.owner_id == shared_id,
        create_time=timestamp(collection.created_at),
    )
