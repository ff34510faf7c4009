from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context import budget, prompt
from chatrpc.context.assembler import _prompt
from chatrpc.context.budget import Query, fit
from chatrpc.domain import DropReason, MessageState, Section
from chatrpc.tokens import estimate_tokens
from tests.context.conversation import hit, message, summary

# Lengths from nothing to several times the budget; the words vary so that costs do.
TEXTS = st.builds(
    lambda word, count: word * count, st.sampled_from(["one ", "Σ", "12", "long words "]), st.integers(0, 900)
)
STATES = st.sampled_from([MessageState.COMPLETE, MessageState.CANCELLED, MessageState.FAILED, MessageState.PENDING])


@st.composite
def contexts(draw):
    texts = draw(st.lists(st.tuples(TEXTS, STATES), max_size=8))
    messages = tuple(message(depth, text, state=state) for depth, (text, state) in enumerate(texts, 21))
    query = message(30, draw(TEXTS) or "why?")
    return {
        "instruction": draw(TEXTS),
        "summary": summary(message(20), draw(TEXTS) or "a summary") if draw(st.booleans()) else None,
        "messages": messages,
        "hits": tuple(hit(text or "a passage") for text in draw(st.lists(TEXTS, max_size=5))),
        "query": Query(query.id, query.sequence, query.text, query.tokens),
    }


BUDGETS = st.integers(512, 6_000)


@given(BUDGETS, contexts())
def test_the_prompt_is_never_above_the_budget_and_the_sections_tell_its_cost(total, context):
    fitted = fit(total, **context)
    assert sum(fitted.tokens.values()) <= total
    real = dict.fromkeys(Section, 0)
    for each in _prompt(fitted, context["query"]):
        real[each.section] += estimate_tokens(each.content)
    for section in Section:
        assert real[section] <= fitted.tokens[section]


@given(BUDGETS, contexts())
def test_every_message_is_in_the_prompt_once_or_reported_once(total, context):
    fitted = fit(total, **context)
    prompted = [i for each in _prompt(fitted, context["query"]) for i in each.message_ids]
    verbatim = [ref.message_id for ref in fitted.verbatim]
    assert verbatim == [*(each.id for each in fitted.messages), context["query"].id]
    assert prompted == [*verbatim[:-1], *(each.message_id for each in fitted.hits), verbatim[-1]]
    gone = [each.message_id for each in fitted.dropped if each.reason is not DropReason.TRUNCATED]
    if context["summary"] is not None and fitted.summary is None:
        gone.remove(context["summary"].anchor_id)
    everything = [*(each.id for each in context["messages"]), *(each.message_id for each in context["hits"])]
    assert sorted(gone + prompted[:-1]) == sorted(everything)


@given(BUDGETS, contexts())
def test_verbatim_messages_are_dropped_oldest_first_and_only_for_want_of_room(total, context):
    fitted = fit(total, **context)
    reasons = {each.message_id: each.reason for each in fitted.dropped}
    said = [each for each in context["messages"] if not prompt.is_empty(each)]
    kept = [each for each in said if each.id not in reasons]
    assert kept == said[len(said) - len(kept) :]
    for each in context["messages"]:
        if prompt.is_empty(each):
            assert reasons[each.id] is DropReason.EMPTY
    if len(kept) < len(said):
        newest_dropped = said[len(said) - len(kept) - 1]
        assert reasons[newest_dropped.id] is DropReason.BUDGET
        before_retrieval = sum(fitted.tokens.values()) - fitted.tokens[Section.RETRIEVED]
        assert before_retrieval + prompt.message_cost(newest_dropped) > total


@given(contexts())
def test_nothing_is_dropped_or_cut_while_it_fits(context):
    fitted = fit(1_000_000, **context)
    assert {each.reason for each in fitted.dropped} <= {DropReason.EMPTY}
    assert fitted.query_text == context["query"].text
    assert fitted.instruction == context["instruction"]
    assert fitted.summary == context["summary"]
    assert fitted.hits == context["hits"]


@given(BUDGETS, contexts())
def test_retrieved_passages_take_their_share_at_most(total, context):
    fitted = fit(total, **context)
    assert fitted.tokens[Section.RETRIEVED] <= total * budget.RETRIEVED_SHARE


@given(BUDGETS, contexts(), contexts())
def test_the_system_instruction_does_not_depend_on_anything_behind_it(total, context, other):
    first = fit(total, **context)
    second = fit(total, **{**other, "instruction": context["instruction"]})
    assert first.instruction == second.instruction


def test_a_query_that_is_too_long_alone_is_cut_with_a_mark():
    query = message(1, "word " * 5_000)
    fitted = fit(
        1_000,
        instruction="Be brief.",
        summary=None,
        messages=(),
        hits=(),
        query=Query(query.id, query.sequence, query.text, query.tokens),
    )
    assert fitted.query_text.endswith(prompt.TRUNCATED)
    assert fitted.query_text.startswith("word word")
    assert [(each.message_id, each.reason) for each in fitted.dropped] == [(query.id, DropReason.TRUNCATED)]
    assert sum(fitted.tokens.values()) > 900


def test_a_summary_without_room_is_reported_by_its_anchor():
    anchor, query = message(20), message(21, "word " * 5_000)
    fitted = fit(
        1_000,
        instruction="",
        summary=summary(anchor, "long " * 400),
        messages=(),
        hits=(),
        query=Query(query.id, query.sequence, query.text, query.tokens),
    )
    assert fitted.summary is None
    assert (anchor.id, DropReason.BUDGET) in [(each.message_id, each.reason) for each in fitted.dropped]
