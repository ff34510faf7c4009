"""The extra that is missing, and models that it cannot load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chatrpc.errors import SettingsError
from chatrpc.models.embedding import build_embedder


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, embedder_settings) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'chatrpc\[sentence-transformers\]'"):
        async with build_embedder(embedder_settings(kind="sentence-transformers")):
            pass


async def test_a_model_that_cannot_be_loaded_is_named(embedder_settings, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra sentence-transformers is not installed")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="CHATRPC_EMBEDDER_MODEL: the sentence-transformers library cannot load"):
        async with build_embedder(embedder_settings(kind="sentence-transformers", model=str(tmp_path))):
            pass
