from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.retrieval.moments import spans

NOW = datetime(2024, 3, 15, 18, 30, tzinfo=UTC)


def day(year, month, number):
    return datetime(year, month, number, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("What did I say on 2023-05-07?", day(2023, 5, 7), day(2023, 5, 9)),
        ("Where was she on 7 May 2023?", day(2023, 5, 7), day(2023, 5, 9)),
        ("Where was she on the 7th of May?", day(2023, 5, 7), day(2024, 5, 7)),
        ("Where was she on May 7th, 2023?", day(2023, 5, 7), day(2023, 5, 5)),
        ("What happened in May 2023?", day(2023, 5, 31), day(2023, 6, 2)),
        ("What happened in February?", day(2024, 2, 3), day(2023, 2, 3)),
        ("What happened during April?", day(2023, 4, 3), day(2023, 5, 3)),
        ("What happened in December 2023?", day(2023, 12, 31), day(2024, 1, 3)),
        ("Who moved in 2022?", day(2022, 12, 31), day(2023, 1, 2)),
        ("What did I ask yesterday?", day(2024, 3, 14), day(2024, 3, 12)),
        ("What did I ask today?", day(2024, 3, 15), day(2024, 3, 13)),
        ("What did we plan last week?", day(2024, 3, 6), day(2024, 2, 20)),
        ("What did we plan this month?", day(2024, 2, 20), day(2024, 1, 20)),
        ("What did I say two weeks ago?", day(2024, 3, 1), day(2024, 3, 10)),
        ("What did I say 3 days ago?", day(2024, 3, 12), day(2024, 3, 8)),
        ("WHAT HAPPENED IN MAY 2023?", day(2023, 5, 31), day(2023, 6, 2)),
        ("What did we plan LA\u017fT WEE\u212a?", day(2024, 3, 6), day(2024, 2, 20)),
    ],
)
def test_a_named_time_holds_what_was_said_then_and_no_other(text, inside, outside):
    found = spans(text, NOW)
    assert any(start <= inside.timestamp() < end for start, end in found)
    assert not any(start <= outside.timestamp() < end for start, end in found)


@pytest.mark.parametrize("text", ["May I ask you?", "They march on", "Meet me at 10:30", "Room 2023 is free", ""])
def test_what_names_no_time_has_none(text):
    assert spans(text, NOW) == []


def test_all_times_of_a_query_count():
    assert len(spans("What changed between 1 May 2023 and 3 June 2023?", NOW)) == 2


@given(
    st.text(alphabet="0123456789 -aMy,augodnthsweklr.", max_size=60),
    st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_any_text_is_read_and_each_time_ends_after_it_begins(text, now):
    assert all(start < end for start, end in spans(text, now))
