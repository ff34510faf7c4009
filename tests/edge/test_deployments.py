"""The committed configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatrpc.edge import validate
from chatrpc.edge.deployments import rendered_files

FOLDER = Path(__file__).parents[2] / "envoy"


def test_the_committed_files_are_what_the_code_renders() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert committed == rendered_files(), "render them anew with `python -m chatrpc.edge`"


def test_the_environment_has_no_part_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rendered_files()
    monkeypatch.setenv("CHATRPC_EDGE_PORT", "1234")
    monkeypatch.setenv("CHATRPC_SERVER_MAX_STREAMS", "7")
    assert rendered_files() == before


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_envoy_accepts_them(name: str) -> None:
    validate((FOLDER / name).read_text(encoding="utf-8"))
