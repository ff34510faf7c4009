"""What each kind of document becomes: its text, its blocks, its title."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from chatrpc.errors import Reason
from chatrpc.knowledge.parse import parse
from chatrpc.knowledge.text import HEADING_CHARACTERS, Kind, ParsedText, ParseError
from tests.support.pdf import pdf_of

LIMIT = 1_000_000

MARKDOWN = """---
title: not a heading
---
# Guide

Intro *text*.

## Install

- one
  - nested
- two

```python
# no heading
x = 1
```

| a | b |
|---|---|
| 1 | 2 |

Setext
------

> quoted
"""

HTML = """<!doctype html><html><head><title> A  page </title><style>p { color: red }</style></head>
<body><nav>Home</nav><h1>Big <b>one</b></h1>
<p>Hello <i>wor</i>ld &amp;<br>all</p><ul><li>first<li>second</ul>
<pre>
if x:
    y()
</pre>
<table><tr><th>Key<th>Value<tr><td>1<td><p>2</p></table>
<div>outer <script>evil()</script><div>inner</div>after</div><!-- no --><img alt="a boat" src="x"></body></html>"""


def blocks_of(parsed: ParsedText) -> list[tuple[Kind, str]]:
    return [(block.kind, parsed.text[block.start : block.end].strip("\n")) for block in parsed.blocks]


def refused(data: bytes, media_type: str, limit: int = LIMIT) -> Reason:
    with pytest.raises(ParseError) as raised:
        parse(data, media_type, limit)
    return raised.value.reason


def test_markdown_keeps_its_source_and_is_cut_into_its_blocks() -> None:
    parsed = parse(MARKDOWN.encode(), "text/markdown", LIMIT)
    assert (parsed.text, parsed.title) == (MARKDOWN, "Guide")
    assert blocks_of(parsed) == [
        (Kind.PROSE, "---\ntitle: not a heading\n---"),
        (Kind.HEADING, "# Guide"),
        (Kind.PROSE, "Intro *text*."),
        (Kind.HEADING, "## Install"),
        (Kind.PROSE, "- one\n  - nested"),
        (Kind.PROSE, "- two"),
        (Kind.CODE, "```python\n# no heading\nx = 1\n```"),
        (Kind.TABLE, "| a | b |\n|---|---|\n| 1 | 2 |"),
        (Kind.HEADING, "Setext\n------"),
        (Kind.PROSE, "> quoted"),
    ]
    assert [(block.level, block.title) for block in parsed.blocks if block.level] == [
        (1, "Guide"),
        (2, "Install"),
        (2, "Setext"),
    ]


def test_html_becomes_the_text_that_a_reader_sees() -> None:
    parsed = parse(HTML.encode(), "text/html", LIMIT)
    assert parsed.title == "A page"
    assert blocks_of(parsed) == [
        (Kind.HEADING, "Big one"),
        (Kind.PROSE, "Hello world & all"),
        (Kind.PROSE, "- first"),
        (Kind.PROSE, "- second"),
        (Kind.CODE, "if x:\n    y()"),
        (Kind.TABLE, "Key | Value\n1 | 2"),
        (Kind.PROSE, "outer"),
        (Kind.PROSE, "inner"),
        (Kind.PROSE, "after"),
        (Kind.PROSE, "a boat"),
    ]


def test_a_page_without_a_title_is_named_by_its_first_heading() -> None:
    assert parse(b"<h2>Small</h2><h1>Large</h1>", "text/html", LIMIT).title == "Large"


def test_plain_text_is_cut_at_empty_lines() -> None:
    parsed = parse(b"one\ntwo\n \n\n\nthree\r\n", "text/plain", LIMIT)
    assert [text.strip() for _, text in blocks_of(parsed)] == ["one\ntwo", "three"]


def test_a_pdf_has_pages_and_the_headings_of_its_outline() -> None:
    pages = ["Intro\nHello (world).\nA hyphen-\nated word.", "The end\nBody"]
    parsed = parse(pdf_of(pages, title="A PDF", outline=[(0, "Intro"), (1, "Elsewhere")]), "application/pdf", LIMIT)
    assert parsed.title == "A PDF"
    assert blocks_of(parsed) == [
        (Kind.HEADING, "Intro"),
        (Kind.PROSE, "Hello (world).\nA hyphenated word."),
        (Kind.HEADING, "Elsewhere"),
        (Kind.PROSE, "The end\nBody"),
    ]
    assert [parsed.text[start:][:5] for start in parsed.page_starts] == ["Intro", "Elsew"]


def test_a_pdf_with_a_password_is_broken_and_one_that_all_may_read_is_not() -> None:
    def encrypted(password: str) -> bytes:
        writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf_of(["Secret"]))))
        writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
        file = BytesIO()
        writer.write(file)
        return file.getvalue()

    assert refused(encrypted("secret"), "application/pdf") is Reason.DOCUMENT_BROKEN
    assert parse(encrypted(""), "application/pdf", LIMIT).text == "Secret"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        ("Grüße".encode(), "text/plain"),
        ("Grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1"),
        ("Grüße".encode("utf-8-sig"), "text/plain"),
        ("Grüße".encode("utf-16"), "text/plain"),
        ("Grüße".encode("utf-32"), "text/plain; charset=latin-1"),
        (b"<meta charset='windows-1252'><p>" + "Grüße".encode("cp1252"), "text/html"),
    ],
)
def test_a_text_is_read_in_its_own_encoding(data: bytes, media_type: str) -> None:
    assert parse(data, media_type, LIMIT).text == "Grüße"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\x80\x81", "text/plain"),
        (b"\x80\x81", "text/markdown"),
        (b"abc", "text/plain; charset=zip"),
        (b"abc", "text/plain; charset=nonsense"),
    ],
)
def test_bytes_that_are_no_text_are_broken(data: bytes, media_type: str) -> None:
    assert refused(data, media_type) is Reason.DOCUMENT_BROKEN


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b" \n\t\n", "text/plain"),
        (b"\n", "text/markdown"),
        (b"<p> </p><script>x</script>", "text/html"),
        (pdf_of(["", " "]), "application/pdf"),
    ],
)
def test_a_document_without_text_is_empty(data: bytes, media_type: str) -> None:
    assert refused(data, media_type) is Reason.DOCUMENT_EMPTY


@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown", "text/html"])
def test_a_text_that_is_too_long_is_too_costly(media_type: str) -> None:
    assert refused(b"a word " * 100, media_type, limit=100) is Reason.DOCUMENT_TOO_COSTLY


def test_a_pdf_with_too_much_text_is_too_costly() -> None:
    assert refused(pdf_of(["many words"] * 20), "application/pdf", limit=100) is Reason.DOCUMENT_TOO_COSTLY


def test_what_the_database_cannot_store_is_replaced() -> None:
    assert parse(b"a\0b", "text/plain", LIMIT).text == "a\ufffdb"


def test_a_paragraph_that_was_marked_up_as_a_heading_is_cut_in_the_path_alone() -> None:
    parsed = parse(b"# " + b"word " * 1_000, "text/markdown", LIMIT)
    assert len(parsed.blocks[0].title) <= HEADING_CHARACTERS
    assert len(parsed.text) == 5_002


@given(st.text(st.sampled_from("#-*>`|~[]()<a>/b \n\t1.é\0\r"), min_size=1, max_size=200))
def test_blocks_are_in_order_and_hold_all_that_is_not_blank(text: str) -> None:
    for media_type in ("text/plain", "text/markdown", "text/html"):
        try:
            parsed = parse(text.encode(), media_type, LIMIT)
        except ParseError:
            continue
        end = 0
        for block in parsed.blocks:
            assert end <= block.start < block.end <= len(parsed.text)
            end = block.end
        if media_type == "text/plain":
            between = [parsed.text[: parsed.blocks[0].start], parsed.text[end:]]
            assert not "".join(between).strip()
