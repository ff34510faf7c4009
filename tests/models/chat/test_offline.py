"""The offline model shows what it was given; others' tests read its answer by the form in its docstring."""

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest

from chatrpc.context.prompt import retrieved_prompt
from chatrpc.domain import Citation, FinishReason, Hit, PromptMessage, Role, Sampling, Section
from chatrpc.models.chat.offline import OfflineChatModel
from chatrpc.ports import ModelRequest, TextDelta
from chatrpc.tokens import estimate_tokens
from tests.models.chat.conftest import run
from tests.support.prompts import model_request

ADA, LUNCH, DOG = (UUID(int=number) for number in (1, 2, 3))


async def answer(request: ModelRequest) -> list[str]:
    text, _ = await run(OfflineChatModel(), request)
    return text.splitlines()


async def test_it_says_what_it_is_and_that_nothing_was_found() -> None:
    assert await answer(model_request("Hello")) == [
        "I am chatrpc's offline model: I do not think, I quote my context.",
        "Closest to your message: nothing",
        "Summary: none",
        "Retrieved, 0: none",
        "Verbatim, 0: none",
    ]


async def test_it_quotes_each_section_with_full_ids() -> None:
    lines = await answer(
        model_request(
            "What is the name of my dog?",
            summary="Ada lives in Turin. She paints.",
            retrieved=((DOG, "user: the dog is called Rex, a good name"),),
            verbatim=((ADA, "user", "I am Ada"), (LUNCH, "assistant", "Time for lunch")),
        )
    )
    assert lines[1:] == [
        f'Closest to your message: [{DOG}] "user: the dog is called Rex, a good name"',
        'Summary: "Ada lives in Turin. She paints."',
        f'Retrieved, 1: [{DOG}] "user: the dog is called Rex, a good name"',
        f"Verbatim, 2: [{ADA}] … [{LUNCH}]",
    ]


async def test_the_closest_passage_may_be_a_sentence_of_the_summary() -> None:
    lines = await answer(model_request("Where does Ada live, Turin?", summary="She paints. Ada is from Turin."))
    assert lines[1] == 'Closest to your message: (summary) "Ada is from Turin."'


async def test_of_equally_close_messages_the_newest_is_quoted() -> None:
    verbatim = ((ADA, "user", "my city is Turin"), (LUNCH, "user", "my city is Rome"))
    lines = await answer(model_request("Which city?", verbatim=verbatim))
    assert lines[1] == f'Closest to your message: [{LUNCH}] "my city is Rome"'


async def test_what_somebody_said_is_quoted_and_not_an_answer_that_repeats_it() -> None:
    repeated = "\n".join(await answer(model_request("Rome?", verbatim=((ADA, "user", "my city is Rome"),))))
    verbatim = ((ADA, "user", "my city is Rome"), (LUNCH, "assistant", repeated))
    lines = await answer(model_request("Which city is Rome?", verbatim=verbatim))
    assert lines[1] == f'Closest to your message: [{ADA}] "my city is Rome"'


async def test_common_words_make_nothing_close() -> None:
    lines = await answer(model_request("What is the time?", verbatim=((ADA, "user", "the cat and what the dog did"),)))
    assert lines[1] == "Closest to your message: nothing"


async def test_a_prompt_message_of_several_stored_messages_is_quoted_after_all_their_ids() -> None:
    block = PromptMessage("user", "<retrieved>\n- lunch\n- dog\n</retrieved>", Section.RETRIEVED, (LUNCH, DOG))
    query = PromptMessage("user", "and?", Section.QUERY)
    lines = await answer(ModelRequest((block, query), None, Sampling(), 500))
    assert lines[3] == f'Retrieved, 2: [{LUNCH}] [{DOG}] "<retrieved> - lunch - dog </retrieved>"'


async def test_marked_passages_are_quoted_one_by_one() -> None:
    hits = [
        Hit(each, ADA, Role.USER, text, datetime.now(UTC), cosine=0.8, rank=1, sure=True, tokens=9)
        for each, text in ((LUNCH, "lunch is at noon"), (DOG, "the dog\nis Rex"))
    ]
    query = PromptMessage("user", "Where is my dog?", Section.QUERY)
    lines = await answer(ModelRequest((retrieved_prompt(hits), query), None, Sampling(), 500))
    assert lines[1] == f'Closest to your message: [{DOG}] "the dog is Rex"'
    assert lines[3] == f'Retrieved, 2: [{LUNCH}] "lunch is at noon" [{DOG}] "the dog is Rex"'


async def test_passages_of_documents_are_quoted_by_their_numbers() -> None:
    manual = Citation(DOG, None, "Manual", ("Boiler",), 0, 12)
    hits = [
        Hit(LUNCH, ADA, Role.USER, "lunch is at noon", datetime.now(UTC), cosine=0.8, rank=1, sure=True, tokens=9),
        Hit(
            None,
            None,
            None,
            "Use vinegar.",
            datetime.now(UTC),
            cosine=0.7,
            rank=2,
            sure=True,
            tokens=9,
            citation=manual,
        ),
    ]
    query = PromptMessage("user", "Why vinegar?", Section.QUERY)
    lines = await answer(ModelRequest((retrieved_prompt(hits), query), None, Sampling(), 500))
    assert lines[1] == 'Closest to your message: [1] "Use vinegar."'
    assert lines[3] == f'Retrieved, 2: [{LUNCH}] "lunch is at noon" [1] "Use vinegar."'


async def test_long_quotes_are_shortened() -> None:
    lines = await answer(model_request("Hello", summary="word " * 1000))
    assert lines[2].endswith('word …"')
    assert len(lines[2]) < 200


@pytest.mark.parametrize("limit", [1, 10, 40])
async def test_it_stops_at_the_output_limit_and_says_so(limit: int) -> None:
    text, finished = await run(OfflineChatModel(), model_request("Hello", max_output_tokens=limit))
    assert finished.reason is FinishReason.LENGTH
    assert 0 < estimate_tokens(text) <= limit


async def test_its_name_stands_whatever_model_is_asked_for_and_its_usage_is_an_estimate() -> None:
    _, finished = await run(OfflineChatModel(), model_request("Hello", model="gpt"))
    assert finished.model == "chatrpc-offline"
    assert finished.usage.estimated


async def test_it_streams_word_by_word() -> None:
    events = [event async for event in OfflineChatModel().stream(model_request("Hello"))]
    words = [event.text for event in events if isinstance(event, TextDelta)]
    assert all(re.fullmatch(r"\S+\s*", word) for word in words)
    assert len(words) > 15
