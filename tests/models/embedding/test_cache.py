"""The graph's cache: complete entries only, found again, and rebuilt for whatever would change the graph."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.cache import cached_graph
from chatrpc.models.embedding.onnx import load_onnx
from chatrpc.models.embedding.weights import read_folder
from chatrpc.settings import EmbedderSettings


def test_a_graph_is_built_once_and_nothing_else_is_left(tiny_folder: Path, tmp_path: Path) -> None:
    folder = read_folder(str(tiny_folder))
    graph = cached_graph(folder, tmp_path / "cache")
    built = graph.stat().st_mtime_ns
    assert cached_graph(folder, tmp_path / "cache") == graph
    assert graph.stat().st_mtime_ns == built
    assert {file.name for file in (tmp_path / "cache").rglob("*")} == {
        "onnx",
        graph.parent.name,
        "model.onnx",
        "queries.onnx",
        "weights.bin",
    }


@pytest.mark.parametrize("change", [{"digest": "0" * 64}, {"pooling": "cls"}, {"heads": 2}, {"epsilon": 1e-5}])
def test_whatever_changes_the_graph_gets_an_entry_of_its_own(tiny_folder: Path, tmp_path: Path, change) -> None:
    folder = read_folder(str(tiny_folder))
    assert cached_graph(folder, tmp_path) != cached_graph(dataclasses.replace(folder, **change), tmp_path)


def test_processes_that_build_at_once_all_get_the_graph(tiny_folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from chatrpc.models.embedding.cache import cached_graph\n"
        "from chatrpc.models.embedding.weights import read_folder\n"
        "import onnx, chatrpc.models.embedding.graph\n"
        "folder = read_folder(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "print(cached_graph(folder, Path(sys.argv[2])).read_bytes() != b'')\n"
    )
    command = [sys.executable, "-c", program, str(tiny_folder), str(tmp_path / "cache")]
    builders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    assert [builder.communicate(timeout=60)[0] for builder in builders] == ["True\n"] * 3
    assert len(list((tmp_path / "cache" / "onnx").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="CHATRPC_EMBEDDER_CACHE_DIR: the ONNX graph cannot be written to"):
        cached_graph(read_folder(str(tiny_folder)), tmp_path / "file")


def test_a_graph_that_cannot_be_read_is_named_with_the_remedy(tiny_folder: Path, tmp_path: Path) -> None:
    settings = EmbedderSettings(model=str(tiny_folder), cache_dir=str(tmp_path / "cache"))
    cached_graph(read_folder(str(tiny_folder)), tmp_path / "cache").write_bytes(b"not a graph")
    with pytest.raises(SettingsError, match="cannot be read; delete that folder"):
        load_onnx(settings)


def test_the_default_cache_follows_the_xdg_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATRPC_EMBEDDER_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    assert EmbedderSettings().cache_dir == "/var/cache/someone/chatrpc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert EmbedderSettings().cache_dir == "/home/someone/.cache/chatrpc"
