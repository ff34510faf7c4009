"""What tool calls and results cost, and how they are made to fit."""

from hypothesis import given
from hypothesis import strategies as st

from chatrpc.context.exchange import MESSAGE_OVERHEAD, fitted, parts_tokens, reply_prompts, tools_tokens
from chatrpc.domain import Part, PromptMessage, Section, TextPart, Tool, ToolCallPart, ToolResultPart
from chatrpc.models.chat.usage import prompt_tokens
from chatrpc.tokens import estimate_tokens

TEXTS = st.text("ab \n.é漢", max_size=300)


@st.composite
def replies(draw: st.DrawFn) -> tuple[Part, ...]:
    parts: list[Part] = []
    for number in range(draw(st.integers(1, 4))):
        if text := draw(TEXTS):
            parts.append(TextPart(text))
        parts.append(ToolCallPart(f"c{number:08}", "weather", draw(TEXTS)))
        if draw(st.booleans()):
            parts.append(ToolResultPart(f"c{number:08}", draw(TEXTS)))
    return tuple(parts)


@given(replies())
def test_the_price_of_a_reply_is_never_below_that_of_its_messages(parts: tuple[Part, ...]) -> None:
    messages = reply_prompts(parts, Section.VERBATIM)
    assert parts_tokens(parts) + MESSAGE_OVERHEAD >= sum(prompt_tokens(message) for message in messages)


@given(replies(), st.integers(0, 1_500))
def test_what_is_fitted_fits_and_keeps_all_but_the_ends_of_results(parts: tuple[Part, ...], room: int) -> None:
    messages = reply_prompts(parts, Section.VERBATIM)
    sent = fitted(messages, room)
    if sent is None:
        return
    assert sum(prompt_tokens(message) for message in sent) <= room
    for before, after in zip(messages, sent, strict=True):
        assert (before.role, before.tool_calls, before.tool_call_id) == (
            after.role,
            after.tool_calls,
            after.tool_call_id,
        )
        if before.content != after.content:
            assert before.role == "tool"
            kept, _, mark = after.content.rpartition("\n")
            assert before.content.startswith(kept)
            assert "was cut here" in mark


def test_the_longest_result_is_cut_and_the_others_are_not() -> None:
    short, long = "It rains. " * 5, "It rains and rains. " * 2_000
    messages = (
        PromptMessage("tool", short, Section.VERBATIM, tool_call_id="a"),
        PromptMessage("tool", long, Section.VERBATIM, tool_call_id="b"),
    )
    sent = fitted(messages, 1_000)
    assert sent is not None
    assert sent[0] == messages[0]
    assert 500 < estimate_tokens(sent[1].content) < 1_000


def test_rounds_without_results_that_could_be_cut_do_not_fit() -> None:
    calls = tuple(ToolCallPart(f"c{number:08}", "weather", "x" * 1_000) for number in range(5))
    assert fitted(reply_prompts(calls, Section.VERBATIM), 500) is None


def test_declarations_have_their_price() -> None:
    tool = Tool("weather", "Tells the weather.", '{"type": "object"}')
    assert tools_tokens((), None) == 0
    assert tools_tokens((tool, tool), None) == 2 * tools_tokens((tool,), None) > 0
    assert tools_tokens((), tool.parameters) > estimate_tokens(tool.parameters)
