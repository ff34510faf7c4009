"""`chatrpc calibrate` with the packaged model and a real database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chatrpc.db.engine import Database
from chatrpc.db.vectors import VectorStore
from chatrpc.models.embedding import build_embedder
from chatrpc.settings import EmbedderSettings
from tests.cli.terminal import terminal

TALK = Path(__file__).parent / "data" / "talk.txt"


async def calibrated(*arguments: object, **env: str) -> tuple[int, str, str]:
    async with terminal(*map(str, arguments), command="calibrate", **env) as person:
        code = await person.code()
        return code, person.shown, person.errors


async def test_the_floor_of_the_packaged_model_is_measured_recorded_and_told(
    database: Database, database_url: str
) -> None:
    code, shown, errors = await calibrated(TALK, CHATRPC_DATABASE_URL=database_url)
    assert (code, errors) == (0, "")
    told = re.search(r"Floor: (0\.\d\d)\. 95% of the unrelated pairs lie below it, and (\d+)% of the related", shown)
    assert told is not None, shown
    # By LoCoMo it is 0.3; see chatrpc.models.embedding.space.
    assert float(told[1]) == pytest.approx(0.3, abs=0.05)
    assert int(told[2]) > 50
    vectors = VectorStore(database)
    async with build_embedder(EmbedderSettings()) as embedder:
        space_id = await vectors.register_space(embedder.space)
    assert await vectors.floor(space_id) == float(told[1])
    assert shown.endswith("servers and workers take it at their next start.\n")


async def test_a_dry_run_needs_no_database_and_a_set_floor_is_named(database_url: str) -> None:
    code, shown, _ = await calibrated("--dry-run", TALK)
    assert code == 0
    assert "Recorded" not in shown
    _, shown, _ = await calibrated(TALK, CHATRPC_DATABASE_URL=database_url, CHATRPC_EMBEDDER_FLOOR="0.4")
    assert shown.endswith("CHATRPC_EMBEDDER_FLOOR=0.4 goes before it for as long as it is set.\n")


async def test_json_lines_of_messages_and_of_conversations_measure_the_same(tmp_path: Path) -> None:
    lines = TALK.read_text().splitlines()
    talks = [lines[start : start + 4] for start in range(0, len(lines), 4)]
    single, whole = tmp_path / "single.jsonl", tmp_path / "whole.jsonl"
    single.write_text(
        "".join(json.dumps({"text": t, "conversation": f"c{n}"}) + "\n" for n, talk in enumerate(talks) for t in talk)
    )
    system = {"role": "system", "content": "Be brief."}
    whole.write_text(
        "".join(
            json.dumps({"messages": [system, *({"role": "user", "content": t} for t in talk)]}) + "\n\n"
            for talk in talks
        )
    )
    reports = [(await calibrated("--dry-run", path))[1] for path in (single, whole)]
    assert reports[0] == reports[1]
    assert f"{len(lines)} different messages of 1 file" in reports[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"one\ntwo\n", "This text does not do: there are 2 different messages, and it takes 50 at least."),
        (b"\xff\xfe", "is not UTF-8 text."),
    ],
)
async def test_a_text_of_no_use_is_told_in_a_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "talk.txt"
    path.write_bytes(content)
    code, shown, errors = await calibrated("--dry-run", path)
    assert (code, shown) == (1, "")
    assert errors.rstrip("\n").endswith(complaint)


@pytest.mark.parametrize("line", ["no json", "[]", '"text"', '{"role": "user"}', '{"messages": [{"role": "user"}]}'])
async def test_a_line_of_no_use_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    code, _, errors = await calibrated("--dry-run", path)
    assert code == 1
    assert f"{path}, line 2: this is no JSON object" in errors
