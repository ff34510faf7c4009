"""Markdown by markdown-it-py. The document's text is its source, so spans point into the file itself."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from chatrpc.knowledge.text import Block, Kind, ParsedText, one_line

# YAML at the beginning of a file, which CommonMark would take for a heading.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:.*\n)*?---[ \t]*(?:\n|\Z)")
_KINDS = {"fence": Kind.CODE, "code_block": Kind.CODE, "table_open": Kind.TABLE}


def parse_markdown(text: str) -> ParsedText:
    front = _FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    line_starts = [offset, *(match.end() for match in re.compile("\n").finditer(text, offset))]
    # Inline markup is not looked at: it stays in the text, and to read it would cost most of the time.
    parser = MarkdownIt("commonmark").enable("table").disable("inline")
    blocks = [Block(Kind.PROSE, 0, offset)] if front else []
    tokens = parser.parse(text[offset:])
    for index, token in enumerate(tokens):
        if token.map is None or not _is_block(tokens, index):
            continue
        start, end = (_start(line_starts, line, len(text)) for line in token.map)
        if blocks and start < blocks[-1].end:
            continue  # An item of a list within an item.
        if token.type == "heading_open":
            blocks.append(Block(Kind.HEADING, start, end, int(token.tag[1:]), one_line(tokens[index + 1].content)))
        elif text[start:end].strip():
            blocks.append(Block(_KINDS.get(token.type, Kind.PROSE), start, end))
    title = next((block.title for block in blocks if block.level == 1), "")
    return ParsedText(text, title, tuple(blocks))


def _is_block(tokens: list[Token], index: int) -> bool:
    """Whether a token begins a block of its own: those at the top, and the items of lists at the top."""
    token = tokens[index]
    if token.nesting < 0 or token.type in ("bullet_list_open", "ordered_list_open"):
        return False
    return token.level == 0 or (token.level == 1 and token.type == "list_item_open")


def _start(line_starts: list[int], line: int, end: int) -> int:
    return line_starts[line] if line < len(line_starts) else end
