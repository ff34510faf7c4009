"""The nouns of chatrpc: plain immutable values, without I/O and without any library of the outside.

Messages of a conversation form a tree with one active head. A *branch* is a chain of messages; a message is
found by `(branch, depth)`, its depth being its place on its path from the root, which has depth 1. A *path*
is written as segments `(branch, last depth)`, oldest first: a linear conversation of n messages is `((0, n),)`.
"""

from chatrpc.domain.caller import Caller
from chatrpc.domain.context import (
    AssembledContext,
    Citation,
    ContextReport,
    Dropped,
    DropReason,
    Fact,
    FactKind,
    Hit,
    HotPath,
    PromptMessage,
    RetrievalOutcome,
    Section,
    Summary,
    VerbatimRef,
)
from chatrpc.domain.conversation import (
    Conversation,
    ConversationMemory,
    MemoryScope,
    Page,
    Path,
    Reach,
    RetrievalMode,
    Sampling,
    TurnSettings,
)
from chatrpc.domain.document import Chunk, Collection, Document, DocumentState, NewDocument
from chatrpc.domain.message import FinishReason, Message, MessageState, Part, Role, TextPart, Usage
from chatrpc.domain.turn import Accepted, BusyPolicy, OutgoingMessage

__all__ = [
    "Accepted",
    "BusyPolicy",
    "AssembledContext",
    "Caller",
    "Chunk",
    "Citation",
    "Collection",
    "ContextReport",
    "Conversation",
    "ConversationMemory",
    "Document",
    "DocumentState",
    "DropReason",
    "Dropped",
    "Fact",
    "FactKind",
    "FinishReason",
    "Hit",
    "HotPath",
    "MemoryScope",
    "Message",
    "MessageState",
    "NewDocument",
    "OutgoingMessage",
    "Page",
    "Part",
    "Path",
    "PromptMessage",
    "Reach",
    "RetrievalMode",
    "RetrievalOutcome",
    "Role",
    "Sampling",
    "Section",
    "Summary",
    "TextPart",
    "TurnSettings",
    "Usage",
    "VerbatimRef",
]
