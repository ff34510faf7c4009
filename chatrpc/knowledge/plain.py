"""Plain text: paragraphs between empty lines."""

from __future__ import annotations

import re
from itertools import pairwise

from chatrpc.knowledge.text import Block, Kind, ParsedText

_PARAGRAPH_END = re.compile(r"\n(?:[^\S\n]*\n)+")


def parse_plain(text: str) -> ParsedText:
    starts = [0, *(match.end() for match in _PARAGRAPH_END.finditer(text)), len(text)]
    spans = ((start, end) for start, end in pairwise(starts) if not text[start:end].isspace() and end > start)
    return ParsedText(text, "", tuple(Block(Kind.PROSE, start, end) for start, end in spans))
