"""Facts change by key, never grow beyond their tokens, and are not lost by being said shorter."""

from hypothesis import given
from hypothesis import strategies as st

from chatrpc.domain import Fact, FactKind
from chatrpc.models.summary.facts import LONGEST_FACT, changed, cost, fact_line, fit, merged, normal_key
from chatrpc.ports import FactChange, Retract, Upsert
from chatrpc.tokens import estimate_tokens
from tests.models.summary.conftest import dialogue, fact

DETAIL = FactKind.DETAIL
MESSAGES = dialogue("My dog is Rex.", "Good.", "We moved to Oslo.", "Nice.")
KEYS = st.sampled_from(["user.name", "User.Name", "dog name", "dog_name", "city", "", "|", "漢字", "x" * 100])
TEXTS = st.sampled_from(["Ada", "ada", "Rex is a dog", "Lives in\nOslo", "", " ", "no " * 200, "漢字" * 90])
KINDS = st.sampled_from(FactKind)
NUMBERS = st.none() | st.integers(-1, 6)
CHANGES: st.SearchStrategy[list[FactChange]] = st.lists(
    st.one_of(st.builds(Upsert, KEYS, KINDS, TEXTS, NUMBERS), st.builds(Retract, KEYS, TEXTS, NUMBERS)), max_size=12
)


@given(st.lists(CHANGES, max_size=6), st.integers(10, 200))
def test_whatever_is_proposed_keys_are_unique_facts_bounded_and_the_rest_untouched(
    batches: list[list[FactChange]], limit: int
) -> None:
    facts: tuple[Fact, ...] = ()
    for changes in batches:
        after = changed(facts, changes, MESSAGES)
        named = {normal_key(change.key) for change in changes}
        assert [each for each in after if each.key not in named] == [each for each in facts if each.key not in named]
        assert len({each.key for each in after}) == len(after)
        for each in after:
            assert each.key == normal_key(each.key) != ""
            assert "\n" not in fact_line(each)
            assert 0 < estimate_tokens(each.text) <= LONGEST_FACT
            assert each.source_sequence in range(1, 5)
        facts, dropped = fit(after, limit)
        assert cost(facts) <= limit
        assert sorted((*facts, *dropped), key=after.index) == list(after)


def test_a_newer_text_takes_the_place_of_the_old_and_remembers_both_messages() -> None:
    known = (fact("dog", "Rex", sequence=1), fact("home", "Turin", sequence=1))
    after = changed(known, [Upsert("Home", FactKind.NAME, "Oslo", 3)], MESSAGES)
    assert [(each.key, each.text) for each in after] == [("dog", "Rex"), ("home", "Oslo")]
    assert (after[1].source_sequence, after[1].changed_sequence) == (1, 3)
    assert (after[1].source_id, after[1].changed_id) == (known[1].source_id, MESSAGES[2].id)


def test_a_fact_goes_only_by_its_own_key() -> None:
    known = (fact("dog", "Rex"), fact("home", "Turin"))
    assert changed(known, [Retract("dog", "gone"), Retract("cat", "never was")], MESSAGES) == known[1:]


def test_a_change_that_names_no_message_is_put_down_to_the_likeliest() -> None:
    [new] = changed((), [Upsert("home", DETAIL, "They moved to Oslo", 99)], MESSAGES)
    assert new.source_sequence == 3


def test_the_same_text_under_another_key_is_not_piled_up() -> None:
    known = (fact("dog", "Rex is a dog"),)
    assert changed(known, [Upsert("pet", DETAIL, "rex is a dog", 1)], MESSAGES) == known


def test_open_questions_go_first_then_the_lesser_kinds_and_of_equals_the_newest() -> None:
    facts = [
        fact("q1", "Which hotel shall it be", FactKind.OPEN_QUESTION, 2),
        fact("q2", "Which train shall it be", FactKind.OPEN_QUESTION, 4),
        fact("d1", "some thing or other", DETAIL, 1),
        fact("d2", "some other thing now", DETAIL, 3),
        fact("p", "tea before coffee", FactKind.PREFERENCE, 3),
        fact("n", "his name is so", FactKind.NAME, 3),
    ]
    gone: list[str] = []
    for limit in range(cost(facts), 0, -1):
        _, dropped = fit(facts, limit)
        gone += [each.key for each in dropped if each.key not in gone]
    assert gone == ["q1", "q2", "d2", "d1", "p", "n"]


def test_a_merge_says_the_same_in_fewer_facts() -> None:
    facts = (
        fact("a", "The user's sister is Ingrid", sequence=1),
        fact("b", "The user's sister Ingrid lives in Oslo", sequence=3),
        fact("c", "likes tea"),
    )
    changes = [Upsert("a", DETAIL, "Sister Ingrid lives in Oslo"), Retract("b", "a")]
    after = merged(facts, facts[:2], changes)
    assert [each.text for each in after] == ["Sister Ingrid lives in Oslo", "likes tea"]
    assert (after[0].source_sequence, after[0].changed_sequence) == (1, 3)


def test_a_merge_cannot_forget() -> None:
    facts = (fact("a", "sister Ingrid lives in Oslo"), fact("b", "rent is 700 euros"), fact("c", "likes tea"))
    for changes in (
        [Retract("a", ""), Retract("b", "")],
        [Upsert("a", DETAIL, "has a sister"), Retract("b", "a")],
        [Upsert("c", DETAIL, "tea"), Retract("a", "c")],
        # The new text of one holds the other, but not its own old one, and so takes neither's place.
        [Upsert("a", DETAIL, "rent is 700 euros"), Retract("b", "a")],
    ):
        assert merged(facts, facts[:2], changes) == facts


def test_a_merge_that_makes_facts_longer_is_not_taken() -> None:
    facts = (fact("a", "likes tea"),)
    assert merged(facts, facts, [Upsert("a", DETAIL, "The user likes tea and likes it very much indeed")]) == facts
