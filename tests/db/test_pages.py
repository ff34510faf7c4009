from __future__ import annotations

import hashlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.db.collections import Collections
from chatrpc.db.documents import Documents
from chatrpc.db.engine import Database
from chatrpc.db.pages import PAGE_CHARACTERS, cut_page
from chatrpc.domain import NewDocument, Page
from chatrpc.errors import InvalidInput


@given(st.lists(st.integers(0, 2 * PAGE_CHARACTERS), max_size=6), st.integers(1, 5))
def test_pages_show_every_item_once_and_hold_no_more_than_they_may(lengths: list[int], size: int) -> None:
    items, seen, more = list(enumerate(lengths)), [], True
    while more:
        found = items[len(seen) : len(seen) + size + 1]
        shown, more = cut_page(found, size, lambda item: item[1])
        assert more == (len(seen) + len(shown) < len(items))
        assert len(shown) == 1 or sum(length for _, length in shown) <= PAGE_CHARACTERS
        assert len(shown) <= size
        seen += shown
    assert seen == items


async def test_a_page_of_documents_with_long_descriptions_ends_early(database: Database, user_id: UUID) -> None:
    documents = Documents(database)
    labels = {f"{number:063}": "ü" * 256 for number in range(16)}
    for number in range(100):
        content = b"%d" % number
        digest = hashlib.sha256(content).digest()
        new = NewDocument("T" * 256, "text/plain", len(content), digest, None, "u" * 2_048, labels)
        await documents.begin(user_id, new)
    shown, following = await documents.list(user_id, Page(1_000))
    texts = [text for each in shown for text in (each.title, each.uri, *each.labels, *each.labels.values())]
    assert sum(map(len, texts)) <= PAGE_CHARACTERS
    rest, end = await documents.list(user_id, Page(1_000, following))
    assert (len({each.id for each in (*shown, *rest)}), end) == (100, None)


async def test_a_position_that_is_no_id_is_refused(database: Database, user_id: UUID) -> None:
    for listing in (
        Documents(database).list(user_id, Page(1, "first")),
        Collections(database).list(user_id, user_id, Page(1, "first")),
    ):
        with pytest.raises(InvalidInput) as refused:
            await listing
        assert refused.value.field == "page_token"
