"""The form of a summarising model's answer: what is passed over, and what is no answer."""

import pytest

from chatrpc.domain import FactKind
from chatrpc.errors import SummaryRefused
from chatrpc.models.summary.answer import parse_fold, parse_merge
from chatrpc.ports import Folding, Retract, Upsert

WHOLE = "STORY\nAda asked about trains.\nShe booked one.\nFACTS\n+ user.name | name | Ada | 3\n- city | moved | 4\nEND"
READ = Folding(
    "Ada asked about trains.\nShe booked one.",
    (Upsert("user.name", FactKind.NAME, "Ada", 3), Retract("city", "moved", 4)),
)


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        WHOLE.lower().replace("ada", "Ada").replace("she", "She"),
        f"```\n{WHOLE}\n```",
        f"Here it is:\n{WHOLE}\nI hope that this helps!",
        WHOLE.replace("STORY", "**STORY:**").replace("FACTS", "## Facts").replace("END", "*End*"),
        WHOLE.replace("+ user", "* + user").replace("- city", "* - city"),
        WHOLE.replace("| 3", "| #3").replace("| 4", "| message 4"),
        WHOLE.replace("| name |", "|Name|"),
        WHOLE.replace("END", "\nthat is all\nEND"),
    ],
    ids=["plain", "small", "fenced", "polite", "decorated", "bulleted", "numbered", "tight", "one odd line"],
)
def test_decorations_are_passed_over(answer: str) -> None:
    assert parse_fold(answer) == READ


@pytest.mark.parametrize("nothing", ["", "\n", "(none)", "None.", "- none", "No changes"])
def test_an_answer_may_change_no_fact(nothing: str) -> None:
    assert parse_fold(f"STORY\nAda left.\nFACTS\n{nothing}\nEND").changes in ((), (Retract("none", ""),))


def test_a_fact_may_hold_the_separator_and_a_kind_may_be_unknown() -> None:
    [change] = parse_merge("FACTS\n+ door | gadget | code 12 | 34 then hash\nEND")
    assert change == Upsert("door", FactKind.DETAIL, "code 12 | 34 then hash", None)


@pytest.mark.parametrize("cut", range(5, len(WHOLE), 7))
def test_an_answer_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(SummaryRefused):
        parse_fold(WHOLE[: cut - 3])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("I'm sorry, but I can't help with that.", "form"),
        ("Ada lives in Turin and likes trains.", "form"),
        ("FACTS\n+ a | name | b | 1\nSTORY\nAda.\nEND", "form"),
        ("STORY\nSTORY\nAda.\nFACTS\nEND", "twice"),
        (f"{WHOLE}\n{WHOLE}", "twice"),
        ("STORY\nAda.\nFACTS\n+ user.name | name | Ada | 3", "cut off"),
        ("STORY\nAda.\nFACTS\nAda is nice\nShe is from Turin\nShe likes tea\nEND", "3 lines"),
    ],
    ids=["refusal", "prose", "turned round", "nested", "twice", "cut", "no operations"],
)
def test_what_has_not_the_form_is_refused(answer: str, why: str) -> None:
    with pytest.raises(SummaryRefused, match=why):
        parse_fold(answer)
