from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.window import batch_due, extends, keeps_enough, length, through
from chatrpc.domain import MessageState
from tests.context.conversation import linear, linear_path, message, summary

ROOMY = 1_000_000
PATHS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=5).map(
    lambda steps: tuple(
        (10 * place + branch, sum(count for _, count in steps[: place + 1])) for place, (branch, _) in enumerate(steps)
    )
)


def places(path):
    """All places of a path, one by one."""
    start, found = 0, []
    for branch, last in path:
        found += [(branch, depth) for depth in range(start + 1, last + 1)]
        start = last
    return found


@given(PATHS, st.integers(0, 30))
def test_the_beginning_of_a_path_has_its_first_places(path, depth):
    assert places(through(path, depth)) == places(path)[:depth]
    assert length(path) == len(places(path))


@given(PATHS, PATHS)
def test_a_path_extends_another_exactly_if_it_begins_with_its_places(longer, shorter):
    assert extends(longer, shorter) == (places(longer)[: length(shorter)] == places(shorter))


@given(st.integers(0, 60), st.integers(2, 12), st.integers(2, 12))
def test_folding_what_is_due_leaves_at_least_keep_and_less_than_a_further_batch(count, keep, fold):
    messages = linear(count)
    folded = []
    while batch := batch_due(messages[len(folded) :], keep, fold, ROOMY):
        assert len(batch) == fold
        folded += batch
    assert tuple(folded) == messages[: len(folded)]
    left = count - len(folded)
    assert left >= min(keep, count)
    assert left < keep + fold


@given(st.integers(0, 39), st.integers(2, 8), st.integers(2, 8), st.sampled_from([0, 100, ROOMY]))
def test_an_unfinished_reply_and_the_messages_that_its_turn_needs_are_never_folded(pending, keep, fold, room):
    messages = [*linear(pending), message(pending + 1, "", state=MessageState.PENDING), *linear(40)[pending + 1 :]]
    folded = 0
    while batch := batch_due(messages[folded:], keep, fold, room):
        folded += len(batch)
    assert folded <= max(0, pending - keep)


@given(st.integers(0, 60), st.integers(2, 12), st.integers(2, 40), st.integers(0, 400))
def test_what_has_no_room_is_folded_early_but_in_steps_and_never_the_newest(count, keep, fold, room):
    messages = linear(count)
    folded = 0
    while batch := batch_due(messages[folded:], keep, fold, room):
        assert fold / 4 <= len(batch) <= fold
        assert batch == messages[folded : folded + len(batch)]
        folded += len(batch)
    left = messages[folded:]
    assert len(left) >= min(keep, count)
    if len(left) - keep >= fold / 4:
        assert sum(each.tokens for each in left) <= room


def test_a_summary_that_covers_too_much_of_a_path_does_not_serve_it():
    version = summary(message(10))
    assert keeps_enough(version, linear_path(14), keep=4)
    assert not keeps_enough(version, linear_path(13), keep=4)
    assert keeps_enough(None, linear_path(1), keep=4)
