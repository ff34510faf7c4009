"""Chunks cover a document in order, stay within what the model reads, and follow the structure."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.domain import Chunk
from chatrpc.knowledge.chunk import PREFIX_TOKENS, TARGET_TOKENS, chunks_of, embedded_text
from chatrpc.knowledge.parse import parse
from chatrpc.knowledge.text import ParseError
from chatrpc.tokens import estimate_tokens
from tests.support.pdf import pdf_of

MAX_TOKENS = 510
LIMIT = 1_000_000
SENTENCE = "The warehouse in the north keeps a copy of every signed invoice. "

lines = st.sampled_from(
    ["# Title", "## Part", "### Piece", "", "", "- an item", "```", "| a | b |", "|---|---|", SENTENCE, SENTENCE * 9]
)


def chunked(markdown: str, max_tokens: int = MAX_TOKENS) -> list[Chunk]:
    return list(chunks_of(parse(markdown.encode(), "text/markdown", LIMIT), max_tokens))


@settings(max_examples=200)
@given(st.lists(lines, min_size=1, max_size=30).map("\n".join), st.sampled_from([60, 128, 510, 8_191]))
def test_chunks_cover_the_text_in_order_and_are_of_bounded_size(markdown: str, max_tokens: int) -> None:
    try:
        parsed = parse(markdown.encode(), "text/markdown", LIMIT)
    except ParseError:
        return
    chunks = list(chunks_of(parsed, max_tokens))
    assert "".join(chunk.text for chunk in chunks) == markdown
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert parsed.text[chunk.start : chunk.end] == chunk.text
        assert len(chunk.text) == 1 or estimate_tokens(chunk.text) <= max_tokens - PREFIX_TOKENS
        assert len(chunk.text) == 1 or (
            estimate_tokens(embedded_text("A title", chunk.headings, chunk.text)) <= max_tokens
        )


@given(st.text(max_size=400), st.integers(PREFIX_TOKENS + 1, 200))
def test_any_text_is_covered_whatever_it_holds(text: str, max_tokens: int) -> None:
    try:
        parsed = parse(text.encode("utf-8", "replace"), "text/plain", LIMIT)
    except ParseError:
        return
    chunks = list(chunks_of(parsed, max_tokens))
    assert "".join(chunk.text for chunk in chunks) == parsed.text
    assert all(len(c.text) == 1 or estimate_tokens(c.text) <= max_tokens - PREFIX_TOKENS for c in chunks)


def test_a_chunk_belongs_to_one_section_and_knows_the_headings_above() -> None:
    chunks = chunked("# A\n\nintro\n\n## B\n\nb one\n\nb two\n\n### C\n\nc\n\n## D\n\nd\n\n# E\n\ne")
    assert [(chunk.headings, chunk.text.split()[-1]) for chunk in chunks] == [
        (("A",), "intro"),
        (("A", "B"), "two"),
        (("A", "B", "C"), "c"),
        (("A", "D"), "d"),
        (("E",), "e"),
    ]


def test_headings_that_follow_each_other_stay_with_what_they_head() -> None:
    [chunk] = chunked("# A\n\n## B\n\ntext")
    assert chunk.headings == ("A", "B")


def test_paragraphs_fill_a_chunk_and_are_not_torn() -> None:
    paragraph = (SENTENCE * 4).strip()
    chunks = chunked("\n\n".join([paragraph] * 10))
    assert all(
        chunk.text.strip().replace("\n\n", "").count(paragraph) * 4 == chunk.text.count("warehouse") for chunk in chunks
    )
    assert max(estimate_tokens(chunk.text) for chunk in chunks) <= TARGET_TOKENS
    assert len(chunks) < 10


def test_code_and_tables_are_kept_whole_beyond_the_size_of_prose() -> None:
    code = "```\n" + "value = compute(other)\n" * 36 + "```"
    table = "| key | value |\n|---|---|\n" + "| one | two |\n" * 45
    assert TARGET_TOKENS < estimate_tokens(code) < MAX_TOKENS - PREFIX_TOKENS
    assert TARGET_TOKENS < estimate_tokens(table) < MAX_TOKENS - PREFIX_TOKENS
    texts = [chunk.text.strip() for chunk in chunked(f"before\n\n{code}\n\n{table}")]
    assert code in texts
    assert table.strip() in texts


def test_a_table_larger_than_the_model_reads_is_cut_between_rows() -> None:
    table = "| key | value |\n|---|---|\n" + "| one | two |\n" * 400
    chunks = chunked(table)
    assert len(chunks) > 1
    assert all(chunk.text.startswith("|") and chunk.text.endswith("|\n") for chunk in chunks)


def test_a_chunk_knows_the_page_it_begins_on() -> None:
    parsed = parse(pdf_of([SENTENCE * 20, SENTENCE * 20, "end"]), "application/pdf", LIMIT)
    chunks = list(chunks_of(parsed, MAX_TOKENS))
    assert chunks[0].page == 1
    assert chunks[-1].page in (2, 3)
    assert [chunk.page for chunk in chunks] == sorted(chunk.page for chunk in chunks)


def test_the_embedded_text_says_what_it_is_about_and_the_innermost_headings_win() -> None:
    assert embedded_text("Guide", ("Guide", "Roof"), " It was mended.\n") == "Guide > Roof: It was mended."
    assert embedded_text("Guide", ("Roof",), "x") == "Guide > Roof: x"
    assert embedded_text("", (), " x ") == "x"
    long = tuple(f"A heading of several words with the number {number}" for number in range(6))
    told = embedded_text("Guide", long, "x")
    assert long[-1] in told
    assert long[0] not in told
    assert estimate_tokens(told) <= PREFIX_TOKENS + 1
