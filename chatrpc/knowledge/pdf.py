"""PDF by pypdf: written in Python alone, so a hostile file meets no parser in C.

Headings come from the outline (bookmarks), placed at the line of their page that says the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from io import BytesIO
from typing import Any

from pypdf import PdfReader
from pypdf.errors import LimitReachedError, PdfReadError

from chatrpc.errors import Reason
from chatrpc.knowledge.text import Kind, ParsedText, ParseError, TextBuilder, one_line

_HYPHENATED = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
_DEEPEST = 6


def parse_pdf(data: bytes, limit: int) -> ParsedText:
    """Raises ParseError where it is encrypted with a password, or what pypdf raises where it is broken."""
    try:
        reader = PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ParseError(Reason.DOCUMENT_BROKEN)
        headings = _outline(reader)
        builder = TextBuilder(limit)
        page_starts = []
        for number, page in enumerate(reader.pages):
            # The blank line before the page's first block belongs to the page before.
            page_starts.append(builder.length + 2 if builder.length else 0)
            _add_page(builder, page.extract_text(), headings.get(number, []))
        return builder.build(_title(reader), tuple(page_starts))
    except LimitReachedError:
        raise ParseError(Reason.DOCUMENT_TOO_COSTLY) from None


def _add_page(builder: TextBuilder, text: str, headings: list[tuple[int, str]]) -> None:
    """Add a page, cut at its headings; one whose line is not found stands before the rest."""
    prose: list[str] = []

    def flush() -> None:
        joined = _HYPHENATED.sub("", "\n".join(prose))
        prose.clear()
        for paragraph in _PARAGRAPH_END.split(joined):
            builder.add(Kind.PROSE, paragraph)

    lines = text.split("\n")
    said = {one_line(line).casefold() for line in lines}
    waiting = {title.casefold(): (level, title) for level, title in headings}
    for name in [name for name in waiting if name not in said]:
        level, title = waiting.pop(name)
        builder.add(Kind.HEADING, title, level)
    for line in lines:
        if found := waiting.pop(one_line(line).casefold(), None):
            flush()
            builder.add(Kind.HEADING, line, found[0])
        else:
            prose.append(line)
    flush()


def _outline(reader: PdfReader) -> dict[int, list[tuple[int, str]]]:
    """Level and title of the headings by page index. A broken outline is none: the pages can still be read."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    try:
        waiting: list[tuple[int, Any]] = [(1, item) for item in reversed(reader.outline)]
        while waiting:
            level, item = waiting.pop()
            if isinstance(item, list):
                waiting += [(min(level + 1, _DEEPEST), below) for below in reversed(item)]
                continue
            page, title = reader.get_destination_page_number(item), one_line(str(item.title or ""))
            if page is not None and title:
                found[page].append((level, title))
    except (PdfReadError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def _title(reader: PdfReader) -> str:
    try:
        metadata = reader.metadata
        return one_line(metadata.title or "") if metadata is not None else ""
    except (PdfReadError, ValueError, KeyError, TypeError, AttributeError):
        return ""
