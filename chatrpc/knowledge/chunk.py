"""Cutting a document into chunks along its structure.

A chunk never reaches over a heading, so what it says belongs under the headings that are embedded with it. Within a
section, paragraphs fill a chunk up to `TARGET_TOKENS`; code and tables stay whole up to all that the model reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from chatrpc.domain import Chunk
from chatrpc.knowledge.text import Block, Kind, ParsedText
from chatrpc.models.embedding.passages import split_passages
from chatrpc.tokens import cut_to_tokens, estimate_tokens

TARGET_TOKENS = 256
"""Upper estimate of the tokens of a chunk of prose. Longer passages are about too much for small embedding models:
all-MiniLM-L6-v2 was trained on at most 128 tokens, and its authors cut at 256."""

PREFIX_TOKENS = 48
"""Upper estimate of the tokens that title and headings add to a chunk's embedded text."""

_SEPARATOR = " > "


def embedded_text(title: str, headings: tuple[str, ...], text: str) -> str:
    """The text that is embedded for a chunk: what it is about, and what it says."""
    names = [title, *headings] if title and title not in headings[:1] else list(headings)
    # Of a long path the innermost headings say the most.
    while len(names) > 1 and estimate_tokens(_SEPARATOR.join(names)) > PREFIX_TOKENS - 2:
        del names[0]
    prefix = cut_to_tokens(_SEPARATOR.join(filter(None, names)), PREFIX_TOKENS - 2)
    return f"{prefix}: {text.strip()}" if prefix else text.strip()


def chunks_of(parsed: ParsedText, max_tokens: int) -> Iterator[Chunk]:
    """Chunks in the order of the text; joined, they are the text.

    Args:
        max_tokens: What the embedding model reads; no chunk has more by estimate, its prefix included. A single
            character is never cut, whatever it counts.
    """
    packer = _Packer(parsed, max(max_tokens - PREFIX_TOKENS, 1))
    for number, piece in enumerate(packer.pieces()):
        yield Chunk(
            number=number,
            start=piece.start,
            end=piece.end,
            page=bisect_right(parsed.page_starts, piece.start),
            headings=piece.headings,
            text=parsed.text[piece.start : piece.end],
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    headings: tuple[str, ...]


@dataclass(slots=True)
class _Packer:
    """Fills one piece after the other.

    Attributes:
        room: Tokens of a piece at most.
        headings: Level and title of those above the place that has been reached.
    """

    parsed: ParsedText
    room: int
    headings: list[tuple[int, str]] = field(default_factory=list)
    _start: int = 0
    _tokens: int = 0
    # Whether the open piece holds nothing but headings, which belong to what follows.
    _bare: bool = True

    def pieces(self) -> Iterator[_Piece]:
        target = min(TARGET_TOKENS, self.room)
        for block, start, end in self._extended():
            tokens = self._count(start, end)
            if block.kind is Kind.HEADING:
                if not self._bare:
                    yield from self._close(start)
                self._enter(block)
                self._tokens += tokens
                continue
            whole = self.room if block.kind in (Kind.CODE, Kind.TABLE) else target
            if not self._bare and self._tokens + tokens > target:
                yield from self._close(start)
            if self._tokens + tokens > whole:
                yield from self._cut(end, target)
            else:
                self._tokens += tokens
                self._bare = False
        yield from self._close(len(self.parsed.text))

    def _extended(self) -> Iterator[tuple[Block, int, int]]:
        """Blocks with the blank space behind them, and the first with that before it, so that nothing is left out."""
        blocks = self.parsed.blocks
        starts = [0, *(block.start for block in blocks[1:]), len(self.parsed.text)]
        for block, (start, end) in zip(blocks, pairwise(starts), strict=True):
            yield block, start, end

    def _enter(self, heading: Block) -> None:
        while self.headings and self.headings[-1][0] >= heading.level:
            self.headings.pop()
        self.headings.append((heading.level, heading.title))

    def _cut(self, end: int, target: int) -> Iterator[_Piece]:
        """Close the open piece at `end`, in several."""
        for start, stop in split_passages(self.parsed.text[self._start : end], target):
            yield _Piece(self._start + start, self._start + stop, self._path())
        self._open(end)

    def _close(self, end: int) -> Iterator[_Piece]:
        if end > self._start:
            if self._tokens > self.room:
                yield from self._cut(end, self.room)
            else:
                yield _Piece(self._start, end, self._path())
        self._open(end)

    def _open(self, start: int) -> None:
        self._start, self._tokens, self._bare = start, 0, True

    def _count(self, start: int, end: int) -> int:
        return estimate_tokens(self.parsed.text[start:end])

    def _path(self) -> tuple[str, ...]:
        return tuple(title for _, title in self.headings if title)
