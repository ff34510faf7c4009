"""HTML by selectolax, whose parser (Lexbor) follows the HTML standard, so it reads what browsers read.

The tree is walked without recursion: pages nest as deep as their authors like.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from chatrpc.errors import Reason
from chatrpc.knowledge.text import Kind, ParsedText, ParseError, TextBuilder, one_line

_WORD = re.compile(r"\w+")
_UNSEEN = frozenset(
    _WORD.findall("head script style noscript template svg math iframe object canvas audio video select datalist nav")
)
# Elements that stand within a line; all others begin and end a block.
_INLINE = frozenset(
    _WORD.findall("""
    a abbr acronym b bdi bdo big br cite code data del dfn em font i img input ins kbd label mark output q rp rt ruby s
    samp small span strike strong sub sup time tt u var wbr
    """)
)
_CELLS = frozenset(("td", "th"))
_HEADING = re.compile(r"h([1-6])")
_SPACE = re.compile(r"\s+")


def parse_html(text: str, limit: int) -> ParsedText:
    try:
        tree = LexborHTMLParser(text)
    except SelectolaxError:
        # Every text is a page by the standard, so nothing but memory can be missing.
        raise ParseError(Reason.DOCUMENT_TOO_COSTLY) from None
    title = tree.css_first("title")
    reader = _Reader(TextBuilder(limit))
    if tree.body is not None:
        reader.read(tree.body)
    headings = (block.title for block in reader.builder.blocks if block.level == 1)
    own = one_line(title.text()) if title is not None else ""
    return reader.builder.build(own or next(headings, ""))


class _Reader:
    """Collects the text of a tree, block by block."""

    def __init__(self, builder: TextBuilder) -> None:
        self.builder = builder
        self._line: list[str] = []
        self._level = 0
        self._preformatted = 0
        self._tables = 0

    def read(self, root: LexborNode) -> None:
        node, root_id = root, root.mem_id
        while True:
            child = node.first_child if self._enter(node) else None
            if child is not None:
                node = child
                continue
            while True:
                self._leave(node)
                # Nodes compare by all that is in them.
                if node.mem_id == root_id:
                    self._flush()
                    return
                following = node.next
                if following is not None:
                    node = following
                    break
                parent = node.parent
                if parent is None:
                    self._flush()
                    return
                node = parent

    def _enter(self, node: LexborNode) -> bool:
        """Begin a node. False to pass over what is in it."""
        tag = node.tag or ""
        if tag == "-text":
            self._line.append(node.text_content or "")
            return False
        if tag in _UNSEEN or tag.startswith(("-", "!", "_")):
            return False
        if tag in _INLINE:
            if tag == "br":
                self._line.append("\n" if self._preformatted else " ")
            elif tag == "img":
                self._line.append(f" {node.attributes.get('alt') or ''} ")
            return True
        if not self._tables:
            self._flush()
        if tag == "table":
            self._tables += 1
        elif tag == "pre":
            self._preformatted += 1
        elif heading := _HEADING.fullmatch(tag):
            self._level = int(heading.group(1))
        elif tag == "li" and not self._tables:
            self._line.append("- ")
        return True

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _UNSEEN or tag in _INLINE or tag.startswith(("-", "!", "_")):
            return
        if tag == "tr":
            self._line.append("\n")
        elif tag in _CELLS:
            self._line.append(" | ")
        elif self._tables and tag != "table":
            self._line.append(" ")
        if tag == "table":
            if self._tables == 1:
                self._flush()
            self._tables -= 1
        elif not self._tables:
            self._flush()
        if tag == "pre":
            self._preformatted -= 1
        elif _HEADING.fullmatch(tag):
            self._level = 0

    def _flush(self) -> None:
        text = "".join(self._line)
        self._line.clear()
        if self._tables:
            rows = (_SPACE.sub(" ", row).strip(" |") for row in text.split("\n"))
            self.builder.add(Kind.TABLE, "\n".join(filter(None, rows)))
        elif self._preformatted:
            self.builder.add(Kind.CODE, text)
        elif self._level:
            self.builder.add(Kind.HEADING, _SPACE.sub(" ", text), self._level)
        elif (line := _SPACE.sub(" ", text).strip()) and line != "-":
            self.builder.add(Kind.PROSE, line)
