from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.recall import dataset
from bench.recall.__main__ import DATABASE, as_json, evaluate, main, missed
from bench.recall.dataset import Memory, corrected, from_jsonl, from_locomo
from bench.recall.measures import DEPTHS, OVERALL, WITH_ADVERSARIAL, Found, groups
from bench.recall.plot import svg
from bench.recall.rankers import POLICY, RANKERS, WITHOUT
from bench.replay.dataset import load
from chatrpc.db.engine import Database
from tests.support.embedder import WordEmbedder

DATA = Path(__file__).parent / "data"
SMALL = DATA / "small.json"
OWN = DATA / "own.jsonl"


@pytest.fixture
def small() -> list[Memory]:
    return from_locomo(load(str(SMALL)))


def test_locomo_gives_a_user_each_conversation_with_its_times(small: list[Memory]) -> None:
    [memory] = small
    assert (memory.user, len(memory.messages), memory.tuned_on) == ("made-1", 30, False)
    assert memory.messages[0].text.startswith("Nora: Hi Tim!")
    assert memory.messages[0].created_at == datetime(2024, 3, 5, 10, 2, tzinfo=UTC)
    assert memory.messages[15].created_at == datetime(2024, 4, 28, 19, 45, tzinfo=UTC)


def test_questions_without_evidence_are_left_out_and_the_others_keep_their_numbers(small: list[Memory]) -> None:
    assert [question.id for question in small[0].questions] == [f"made-1_qa{number}" for number in range(6)]


def test_corrected_keys_replace_the_evidence(small: list[Memory]) -> None:
    erratum = {
        "question_id": "locomo_0_qa1",
        "question": "When did Nora move into the flat by the harbour?",
        "correct_evidence": ["D1:3", "D9:9"],
    }
    [memory] = corrected(small, [erratum])
    assert memory.questions[1].evidence == {"D1:3"}
    assert memory.questions[0] == small[0].questions[0]


def test_an_erratum_that_names_no_known_message_changes_nothing(small: list[Memory]) -> None:
    erratum = {"question_id": "locomo_0_qa1", "question": small[0].questions[1].text, "correct_evidence": []}
    assert corrected(small, [erratum]) == small


def test_an_erratum_of_another_data_set_is_refused(small: list[Memory]) -> None:
    with pytest.raises(ValueError, match="locomo_0_qa1 is about another question than made-1_qa1"):
        corrected(small, [{"question_id": "locomo_0_qa1", "question": "Who?", "correct_evidence": []}])


def test_own_messages_are_read_by_user_and_conversation() -> None:
    first, second = from_jsonl(OWN)
    assert (first.user, second.user) == ("ann", "bob")
    assert [message.conversation for message in first.messages] == ["garden", "garden", "travel"]
    assert first.questions[0].category == "facts"
    assert second.questions[0].asked_at > second.messages[-1].created_at


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 1"),
        ('{"id": "m", "text": "x"}', "line 1: KeyError.*created_at"),
        ('{"id": "m", "text": "x", "created_at": "2026-01-31T12:00:00"}', "no time zone"),
        ('{"id": "m", "text": "x", "role": "cat", "created_at": "2026-01-31T12:00:00Z"}', "line 1.*cat"),
    ],
)
def test_a_line_that_is_not_of_the_format_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "own.jsonl").write_text(line)
    with pytest.raises(ValueError, match=problem):
        from_jsonl(tmp_path / "own.jsonl")


def test_evidence_must_be_a_message(tmp_path: Path) -> None:
    message = '{"id": "m", "text": "x", "created_at": "2026-01-31T12:00:00Z"}'
    (tmp_path / "own.jsonl").write_text(f'{message}\n{{"question": "?", "evidence": ["other"]}}')
    with pytest.raises(ValueError, match="line 2: the evidence names other"):
        from_jsonl(tmp_path / "own.jsonl")


def found(category: str, ids: list[str], evidence: set[str]) -> Found:
    question = dataset.Question("q", "?", category, frozenset(evidence), datetime(2026, 1, 1, tzinfo=UTC))
    return Found(question, tuple(ids), (1, 2, 3, 4))


def test_recall_is_the_share_of_the_evidence_among_the_first_averaged_over_questions() -> None:
    filler = [f"m{number}" for number in range(5)]
    rows = groups(
        [
            found("temporal", ["a", *filler, "b"], {"a", "b"}),
            found("single-hop", filler, {"a"}),
            found("adversarial", ["a"], {"a"}),
        ]
    )
    assert rows["temporal"].recall == (50, 100, 100, 100)
    assert rows[OVERALL].recall == (25, 50, 50, 50)
    assert rows[WITH_ADVERSARIAL].questions == 3


async def test_the_policy_over_postgresql_delivers_what_it_does_over_arrays(
    small: list[Memory], database: Database
) -> None:
    memories = [*small, *from_jsonl(OWN)]
    ranked = await evaluate(memories, WordEmbedder(), without=True, database=database)
    assert ranked[DATABASE] == ranked[POLICY]
    assert ranked.keys() == {*RANKERS, *WITHOUT, DATABASE}
    assert groups(ranked[POLICY])[OVERALL].recall[-1] > 60
    assert missed(ranked, 0) == [each.question.id for each in ranked[POLICY] if each.question.category != "adversarial"]


async def test_figures_are_written_by_way_to_rank_and_group(small: list[Memory]) -> None:
    ranked = await evaluate(small, WordEmbedder(), without=False, database=None)
    figures = json.loads(json.dumps(as_json(ranked)))
    assert figures["rows"][POLICY][OVERALL]["questions"] == 5
    assert set(figures["rows"]["BM25"]["temporal"]) >= {f"R@{depth}" for depth in DEPTHS}


def test_the_plot_has_a_line_for_each_way_to_rank() -> None:
    tree = ET.fromstring(svg("A & B", {"one": (10.0, 20.0, 30.0, 40.0), "two": (50.0, 60.0, 70.0, 80.0)}))
    lines = tree.findall("{*}polyline")
    assert len(lines) == 2
    assert [text.text for text in tree.findall("{*}text")][-2:] == ["two", "one"]


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.svg"
    monkeypatch.setattr("sys.argv", ["recall", str(SMALL), "--json", str(out), "--plot", str(plot)])
    main()
    printed = capsys.readouterr().out
    assert "conversations held out" in printed
    assert "LoCoMo paper's best" in printed
    assert json.loads(out.read_text())["sets"]["conversations held out"]["rows"][POLICY]
    assert plot.read_text().startswith("<svg")
