"""What is refused of a summary, and what must not be."""

import pytest

from chatrpc.domain import FactKind
from chatrpc.errors import SummaryRefused
from chatrpc.models.summary.checks import check_narrative, checked_changes
from chatrpc.ports import Retract, Upsert
from tests.models.summary.conftest import dialogue, fact

DETAIL = FactKind.DETAIL
OLD = (
    "Ada planned a journey from Turin to Oslo by train and asked about prices, seats and luggage. The assistant named"
    " three companies and their conditions. She compared hotels near the harbour, disliked the noisy ones, and asked"
    " for a quiet room with a view. They spoke about museums, the weather in March and warm clothes."
)
SHORTER = (
    "Ada planned a train journey from Turin to Oslo, comparing companies, prices and quiet hotels near the harbour;"
    " museums and the weather in March came up. Then she asked how to cook lentils."
)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("", "empty"),
        ("word " * 400, "more than the 200 allowed"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I cannot summarize this conversation.", "refused"),
        ("As an AI language model I have no memory.", "refused"),
        (f"Summary of the previous summary: {SHORTER}", "inside itself"),
        (f"The earlier summary said that {SHORTER}", "inside itself"),
        (f"<story>{SHORTER}</story>", "inside itself"),
        ("The user asked how to cook lentils.", "shrank"),
        ("The user asked how to cook lentils, rice, beans, peas, barley, millet and many another dish. " * 2, "holds"),
    ],
    ids=["empty", "bloated", "refusal", "cannot", "as an AI", "nested", "quoting", "tags", "shrunk", "forgotten"],
)
def test_a_story_that_is_none_is_refused(new: str, why: str) -> None:
    with pytest.raises(SummaryRefused, match=why):
        check_narrative(OLD, new, 200)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "Hello was said."),
        ("They said hello.", "The user asked how to cook lentils."),
        (OLD, SHORTER),
        (OLD, OLD),
        ("Ada asked for a summary of a book.", "Ada asked for a summary of a book, and for one of a film."),
        (OLD, SHORTER + " The user said sorry for being late."),
    ],
    ids=["first", "short", "compressed", "unchanged", "about summaries", "about sorry"],
)
def test_an_honest_story_is_not_refused(old: str, new: str) -> None:
    check_narrative(old, new, 200)


MESSAGES = dialogue("My dog Rex is five, and we moved to Oslo.", "How nice!", "I take it back about tea.", "Fine.")
KNOWN = [fact("home", "Lives in Turin"), fact("tea", "Likes tea"), fact("job", "Teaches chemistry")]


def test_changes_that_the_messages_bear_out_are_taken() -> None:
    changes = [
        Upsert("dog", FactKind.NAME, "The user has a five-year-old dog named Rex", 1),
        Upsert("home", DETAIL, "Lives in Oslo", 1),
        Retract("tea", "taken back", 3),
    ]
    assert checked_changes(KNOWN, changes, "They talked.", MESSAGES) == tuple(changes)


def test_what_is_known_already_is_passed_over() -> None:
    assert checked_changes(KNOWN, [Upsert("tea", DETAIL, "likes tea", 1)], "", MESSAGES) == ()


def test_a_fact_is_taken_back_only_by_a_message_of_the_batch() -> None:
    changes = [Retract("tea", "no longer needed"), Retract("job", "old", 77), Retract("cat", "never was", 3)]
    assert checked_changes(KNOWN, changes, "", MESSAGES) == ()


def test_an_invented_fact_is_left_out() -> None:
    changes = [
        Upsert("dog", DETAIL, "Rex is a dog", 1),
        Upsert("moon", DETAIL, "Owns seventeen llamas upon Jupiter", 1),
        Upsert("job", DETAIL, "Unemployed millionaire", 1),
    ]
    with pytest.raises(SummaryRefused, match="hold nothing that was said"):
        checked_changes(KNOWN, changes, "", MESSAGES)
    assert checked_changes(KNOWN, changes[:2], "", MESSAGES) == (changes[0],)


def test_a_flood_of_facts_is_refused() -> None:
    flood = [Upsert(f"k{number}", DETAIL, f"The dog Rex moved to Oslo {number}", 1) for number in range(40)]
    with pytest.raises(SummaryRefused, match="more than the messages can have brought"):
        checked_changes(KNOWN, flood, "", MESSAGES)


def test_taking_back_most_of_what_is_known_is_refused() -> None:
    known = [fact(f"k{number}", f"thing {number}") for number in range(10)]
    with pytest.raises(SummaryRefused, match="took back 10 of 10 facts"):
        checked_changes(known, [Retract(each.key, "gone", 3) for each in known], "", MESSAGES)
    with pytest.raises(SummaryRefused, match="took back 10 of 10 facts"):
        checked_changes(
            known, [Upsert(each.key, DETAIL, f"Rex moved {each.key}", 1) for each in known], "", dialogue("Rex " * 80)
        )


def test_rewording_known_facts_is_no_taking_back() -> None:
    known = [fact(f"k{number}", f"Rex likes street {number}") for number in range(6)]
    changes = [Upsert(each.key, DETAIL, f"The dog {each.text}", 1) for each in known]
    assert checked_changes(known, changes, "", MESSAGES) == tuple(changes)
