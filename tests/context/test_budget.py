"""What the budget promises, over contexts of every size."""

from hypothesis import assume, given
from hypothesis import strategies as st

from chatrpc.context import budget, prompt
from chatrpc.context.budget import Material, Query, fit
from chatrpc.context.cut import MARK_TOKENS
from chatrpc.context.exchange import MESSAGE_OVERHEAD
from chatrpc.domain import DropReason, MessageState, Section
from chatrpc.tokens import estimate_tokens
from tests.context.conversation import hit, message, summary

# Lengths from nothing to several times the budget; the words vary so that costs do.
TEXTS = st.builds(
    lambda word, count: word * count, st.sampled_from(["one ", "Σ", "12", "long words "]), st.integers(0, 900)
)
SHORT = st.builds(lambda word, count: word * count, st.sampled_from(["one ", "Σ", "12"]), st.integers(0, 60))
STATES = st.sampled_from([MessageState.COMPLETE, MessageState.CANCELLED, MessageState.FAILED, MessageState.PENDING])


def ask(text, number=30):
    said = message(number, text)
    return Query(said.id, said.sequence, said.text, said.tokens)


@st.composite
def contexts(draw, texts=TEXTS):
    said = draw(st.lists(st.tuples(texts, STATES), max_size=8))
    return Material(
        instruction=draw(texts),
        summary=summary(message(20), draw(texts) or "a summary") if draw(st.booleans()) else None,
        messages=tuple(message(depth, text, state=state) for depth, (text, state) in enumerate(said, 21)),
        hits=tuple(hit(text or "a passage") for text in draw(st.lists(texts, max_size=5))),
        query=ask(draw(texts) or "why?"),
    )


BUDGETS = st.integers(512, 6_000)


def room_of(total, fitted):
    return total - fitted.tokens[Section.SYSTEM] - fitted.tokens[Section.SUMMARY]


def reasons(fitted):
    return {each.message_id: each.reason for each in fitted.dropped}


@given(BUDGETS, contexts())
def test_the_prompt_is_never_above_the_budget_and_the_sections_tell_its_cost(total, context):
    fitted = fit(total, context)
    assert sum(fitted.tokens.values()) <= total
    real = dict.fromkeys(Section, 0)
    for each in fitted.written:
        real[each.section] += estimate_tokens(each.content)
    for section in Section:
        assert real[section] <= fitted.tokens[section]


@given(BUDGETS, contexts())
def test_the_query_is_always_there(total, context):
    fitted = fit(total, context)
    assert fitted.query_text
    assert fitted.query_text[0] == context.query.text[0]
    if fitted.query_text != context.query.text:
        assert (context.query.id, DropReason.TRUNCATED) in reasons(fitted).items()


@given(BUDGETS, contexts())
def test_every_message_is_in_the_prompt_once_or_reported_once(total, context):
    fitted = fit(total, context)
    prompted = [i for each in fitted.written for i in each.message_ids]
    verbatim = [ref.message_id for ref in fitted.verbatim]
    assert verbatim == [*(each.id for each in fitted.messages), context.query.id]
    assert prompted == [*verbatim[:-1], *(each.message_id for each in fitted.hits), verbatim[-1]]
    gone = [each.message_id for each in fitted.dropped if each.reason is not DropReason.TRUNCATED]
    if context.summary is not None and fitted.summary is None:
        gone.remove(context.summary.anchor_id)
    everything = [*(each.id for each in context.messages), *(each.message_id for each in context.hits)]
    assert sorted(gone + prompted[:-1]) == sorted(everything)


@given(BUDGETS, contexts())
def test_verbatim_messages_yield_oldest_first(total, context):
    """Gone, cut to an eighth, to a quarter, to the half, whole: the fate of each is no worse than that of an older."""
    fitted = fit(total, context)
    after = {each.id: prompt.message_cost(each) for each in fitted.messages}
    limits = [0, *(int(room_of(total, fitted) * share) for share in sorted(budget.CUT_SHARES))]
    half = limits[-1]
    fates = []
    for each in context.messages:
        if prompt.is_empty(each):
            assert reasons(fitted)[each.id] is DropReason.EMPTY
            continue
        cost, left = prompt.message_cost(each), after.get(each.id, 0)
        # What is longer than half of the room is cut to that first, wherever it stands.
        whole = left in (cost, min(cost, half)) or half - MARK_TOKENS <= left < cost
        fates.append((whole, left))
    untouched = [whole for whole, _ in fates]
    first = untouched.index(True) if True in untouched else len(untouched)
    assert all(untouched[first:])
    # Of those that yield, only the newest may still be there in part, unless shorter than what it is cut to.
    assert sum(left > 0 for _, left in fates[:first]) <= 1


@given(BUDGETS, contexts(), st.data())
def test_nothing_yields_while_more_than_a_step_and_an_item_is_unused(total, context, data):
    fitted = fit(total, context)
    room, unused = room_of(total, fitted), total - sum(fitted.tokens.values())
    step, half = int(room * budget.STEP_SHARE), int(room * max(budget.CUT_SHARES))
    fates = reasons(fitted)
    yielded = [each for each in context.messages if fates.get(each.id) in (DropReason.BUDGET, DropReason.TRUNCATED)]
    if yielded:
        # An item is the part of a message that went at once: half of the room at most, unless it alone has more.
        longest = max(prompt.message_cost(each) for each in yielded)
        assert unused <= step + max(half, longest - half) + MARK_TOKENS
    for each in context.hits:
        if each not in fitted.hits:
            block = 0 if fitted.hits else prompt.RETRIEVED_OVERHEAD
            assert each.tokens + block > unused


@given(contexts())
def test_nothing_is_dropped_or_cut_while_it_fits(context):
    fitted = fit(1_000_000, context)
    assert {each.reason for each in fitted.dropped} <= {DropReason.EMPTY}
    assert fitted.query_text == context.query.text
    assert fitted.instruction == context.instruction
    assert fitted.summary == context.summary
    assert fitted.hits == context.hits


@given(BUDGETS, contexts())
def test_what_fits_as_a_whole_is_whole_however_the_sections_share_it(total, context):
    need = context.tokens + MESSAGE_OVERHEAD + prompt.POLICY_TOKENS + estimate_tokens(context.instruction)
    head = MESSAGE_OVERHEAD + prompt.POLICY_TOKENS + estimate_tokens(context.instruction)
    assume(need <= total and head <= total * budget.SYSTEM_SHARE)
    if context.summary is not None:
        assume(context.summary.tokens + prompt.SUMMARY_OVERHEAD <= total * budget.SUMMARY_SHARE)
    assert {each.reason for each in fit(total, context).dropped} <= {DropReason.EMPTY}


@given(BUDGETS, contexts())
def test_passages_and_messages_have_their_guarantee_beside_any_query(total, context):
    fitted = fit(total, context)
    room = room_of(total, fitted)
    spoken = [each for each in context.messages if not prompt.is_empty(each)]
    best = context.hits[:1]
    if best and best[0].tokens + prompt.RETRIEVED_OVERHEAD <= int(room * budget.RETRIEVED_SHARE):
        assert fitted.hits[:1] == best
    if spoken and sum(map(prompt.message_cost, spoken)) <= int(room * budget.VERBATIM_SHARE):
        assert len(fitted.messages) == len(spoken)


@given(BUDGETS, contexts(), contexts())
def test_the_head_of_the_prompt_does_not_depend_on_anything_behind_it(total, context, other):
    first = fit(total, context)
    second = fit(total, Material(context.instruction, context.summary, other.messages, other.hits, other.query))
    assert (first.instruction, first.summary) == (second.instruction, second.summary)


@given(st.integers(1_000, 4_000), contexts(SHORT), st.lists(SHORT.filter(bool), min_size=20, max_size=60))
def test_under_pressure_the_window_yields_in_steps(total, context, texts):
    """The first message of the window moves rarely, and never back."""
    said = tuple(message(depth, text) for depth, text in enumerate(texts, 21))
    starts = []
    for end in range(0, len(said), 2):
        fitted = fit(total, Material("", None, said[:end], (), ask(said[end].text)))
        starts.append(end - len(fitted.messages))
    assert starts == sorted(starts)
    grown = sum(prompt.message_cost(each) for each in said)
    room = room_of(total, fitted)
    assert len(set(starts)) - 1 <= 1 + grown / int(room * budget.STEP_SHARE)


def test_a_query_that_is_too_long_alone_is_cut_in_the_middle_with_a_mark():
    context = Material("Be brief.", None, (), (), ask("word " * 5_000 + "Why?"))
    fitted = fit(1_000, context)
    assert "characters are left out here" in fitted.query_text
    assert fitted.query_text.startswith("word word")
    assert fitted.query_text.endswith("Why?")
    assert [(each.message_id, each.reason) for each in fitted.dropped] == [(context.query.id, DropReason.TRUNCATED)]
    assert sum(fitted.tokens.values()) > 950


def test_a_message_longer_than_the_budget_stays_in_the_window_in_part():
    long, answer = message(1, "word " * 5_000), message(2, "I see.")
    fitted = fit(2_000, Material("", None, (long, answer), (), ask("And now?")))
    assert [each.id for each in fitted.messages] == [long.id, answer.id]
    assert "characters are left out here" in fitted.messages[0].text
    assert reasons(fitted) == {long.id: DropReason.TRUNCATED}


def test_a_reply_that_was_cut_off_and_is_too_long_bears_both_marks():
    long = message(2, "word " * 5_000, state=MessageState.CANCELLED)
    fitted = fit(2_000, Material("", None, (long,), (), ask("And now?")))
    [shown] = [each for each in fitted.written if each.section is Section.VERBATIM]
    assert "characters are left out here" in shown.content
    assert shown.content.endswith(prompt.CUT_OFF)


def test_an_instruction_and_a_summary_that_are_too_long_are_cut_to_their_shares():
    anchor = message(20)
    fitted = fit(4_000, Material("rule " * 5_000, summary(anchor, "fact " * 5_000), (), (), ask("Why?")))
    assert "characters are left out here" in fitted.instruction
    assert "characters are left out here" in fitted.summary.text
    assert 1_900 < fitted.tokens[Section.SYSTEM] <= 2_000
    assert 900 < fitted.tokens[Section.SUMMARY] <= 1_000
    assert reasons(fitted) == {anchor.id: DropReason.TRUNCATED}
