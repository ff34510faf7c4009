"""From the bytes of a document to its text, by media type."""

from __future__ import annotations

import codecs
import re

from chatrpc.errors import Reason
from chatrpc.knowledge.media_type import HTML, MARKDOWN, PDF, media_type_of
from chatrpc.knowledge.text import ParsedText, ParseError, storable

# Longest first, since UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# As browsers do, only the beginning of a page is searched for its own declaration.
_DECLARED = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
_DECLARED_WITHIN = 1024


def parse(data: bytes, media_type: str, limit: int) -> ParsedText:
    """The text of a document.

    Args:
        limit: Characters of the text at most.

    Raises:
        ParseError: It is broken, too costly or empty.
        Exception: Whatever else the libraries raise at a broken document.
    """
    kind, charset = media_type_of(media_type)
    # Each kind brings libraries of its own, which the process of a document of another kind need not load.
    if kind == PDF:
        from chatrpc.knowledge.pdf import parse_pdf

        parsed = parse_pdf(data, limit)
    else:
        parsed = _parse_text(_decode(data, charset, html=kind == HTML), kind, limit)
    if not parsed.blocks:
        raise ParseError(Reason.DOCUMENT_EMPTY)
    return parsed


def _parse_text(text: str, kind: str, limit: int) -> ParsedText:
    if len(text) > limit:
        raise ParseError(Reason.DOCUMENT_TOO_COSTLY)
    if kind == HTML:
        from chatrpc.knowledge.html import parse_html

        return parse_html(text, limit)
    if kind == MARKDOWN:
        from chatrpc.knowledge.markdown import parse_markdown

        return parse_markdown(text)
    from chatrpc.knowledge.plain import parse_plain

    return parse_plain(text)


def _decode(data: bytes, charset: str | None, *, html: bool) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            charset, data = encoding, data[len(mark) :]
            break
    declared = _DECLARED.search(data[:_DECLARED_WITHIN]) if html and charset is None else None
    if declared is not None:
        charset = declared.group(1).decode()
    try:
        # Looked up as a text encoding: Python has codecs such as zip that are none.
        return storable(data.decode(codecs.lookup(charset or "utf-8").name, "replace" if html else "strict"))
    except (UnicodeError, LookupError):
        raise ParseError(Reason.DOCUMENT_BROKEN) from None
