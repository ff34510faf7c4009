"""What every parser makes of a document: its text, and where its blocks stand in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from chatrpc.errors import Reason

# Longer headings are cut: a paragraph that was marked up as one must not fill every chunk below it.
HEADING_CHARACTERS = 160
_SPACE = re.compile(r"\s+")
# PostgreSQL cannot store U+0000, and lone surrogates have no UTF-8 form.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class ParseError(Exception):
    """A document cannot be read.

    Attributes:
        reason: DOCUMENT_BROKEN, DOCUMENT_TOO_COSTLY or DOCUMENT_EMPTY.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Kind(Enum):
    """What a block is. Code and tables lose more than prose by being cut."""

    HEADING = auto()
    PROSE = auto()
    CODE = auto()
    TABLE = auto()


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a text.

    Attributes:
        start, end: In characters of the text; blocks are in order and do not overlap.
        level: Of a heading, from 1; 0 of other blocks.
        title: Of a heading, in one line.
    """

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A document's text.

    Attributes:
        title: What the document calls itself, or empty.
        page_starts: Where each page begins, for documents that have pages.
    """

    text: str
    title: str
    blocks: tuple[Block, ...]
    page_starts: tuple[int, ...] = ()


def storable(text: str) -> str:
    """The text with line ends as `\\n` and the replacement character for what cannot be stored."""
    return _UNSTORABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """A heading or a title without line ends, of bounded length."""
    return _SPACE.sub(" ", text).strip()[:HEADING_CHARACTERS].rstrip()


@dataclass(slots=True)
class TextBuilder:
    """Puts a text together block by block, with an empty line between them.

    Args:
        limit: Characters at most; a longer text raises ParseError(DOCUMENT_TOO_COSTLY).
    """

    limit: int
    blocks: list[Block] = field(default_factory=list)
    length: int = 0
    _pieces: list[str] = field(default_factory=list)

    def add(self, kind: Kind, text: str, level: int = 0) -> None:
        """Add a block; one without text is left out."""
        text = storable(text).strip("\n" if kind is Kind.CODE else None)
        if not text or text.isspace():
            return
        if self._pieces:
            self._append("\n\n")
        start = self.length
        self._append(text)
        self.blocks.append(Block(kind, start, self.length, level, one_line(text) if level else ""))

    def _append(self, text: str) -> None:
        self._pieces.append(text)
        self.length += len(text)
        if self.length > self.limit:
            raise ParseError(Reason.DOCUMENT_TOO_COSTLY)

    def build(self, title: str, page_starts: tuple[int, ...] = ()) -> ParsedText:
        return ParsedText("".join(self._pieces), title, tuple(self.blocks), page_starts)
