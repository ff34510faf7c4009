from __future__ import annotations

from pathlib import Path

import pytest
from chatapi.v1.document_pb2 import DOCUMENT_STATE_FAILED, Document

from chatrpc.cli.documents import describe, progress
from tests.cli.terminal import terminal
from tests.cli.test_chat import arguments
from tests.rpc.stage import Stage


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.md", "text/markdown"), ("A.HTML", "text/html"), ("a.pdf", "application/pdf"), ("NOTES", "text/plain")],
)
def test_the_name_of_a_file_tells_its_media_type(name: str, media_type: str) -> None:
    assert describe(Path(name), "", "", "").media_type == media_type
    assert describe(Path(name), "", "text/html", "").media_type == "text/html"


def test_where_a_file_lies_is_told_of_documents_that_are_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "manual.md"
    assert describe(file, "", "", "").uri == file.as_uri()
    assert str(tmp_path) not in str(describe(file, "Manual", "", "0190"))


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("DOCUMENT_BROKEN", "failed: it is damaged"),
        ("DOCUMENT_TOO_COSTLY", "failed: to read it took more"),
        ("DOCUMENT_EMPTY", "failed: there is no text in it"),
        ("OF_A_LATER_RELEASE", "failed: OF_A_LATER_RELEASE"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_in_words(reason: str, said: str) -> None:
    assert progress(Document(state=DOCUMENT_STATE_FAILED, error_reason=reason)).startswith(said)


async def test_an_empty_file_is_named_and_the_others_are_tried(stage: Stage, tmp_path: Path) -> None:
    empty, archive = tmp_path / "empty.txt", tmp_path / "archive.zip"
    empty.touch()
    archive.write_bytes(b"PK")
    async with terminal("add", *arguments(stage), str(empty), str(archive), command="documents") as person:
        assert await person.code() == 1
        assert f"{empty}: the file is empty." in person.errors
        assert f"{archive}: Documents can be text/plain" in person.errors
        assert "Error: 2 of 2 documents could not be ingested." in person.errors


async def test_where_there_are_no_documents_that_is_said(stage: Stage) -> None:
    async with terminal("list", *arguments(stage), command="documents") as person:
        assert await person.code() == 0
        assert person.shown == "There are no documents.\n"
