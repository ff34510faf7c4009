"""`gen/` as others install it: a wheel of its own, whole, typed and without the server.

`test_docs_examples.py` talks through it, and says what comes with it.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT

[EXAMPLE, *_] = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL
)

IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
assert "chatrpc" not in sys.modules
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content, and of its dependencies' what Python imports."""
    folder = tmp_path_factory.mktemp("stubs")
    uv = shutil.which("uv")
    assert uv is not None, "uv is not on the path; `pip install uv`"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT / "gen"], check=True)
    [wheel] = folder.glob("chatapi-*.whl")
    target = folder / "installed"
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", target, wheel]
    subprocess.run(install, check=True)
    return target


def modules(installed: Path) -> list[str]:
    found = (path for package in ("chatapi", "buf") for path in (installed / package).rglob("*_pb2*.py"))
    return sorted(".".join(path.relative_to(installed).with_suffix("").parts) for path in found)


def test_every_module_can_be_imported_without_the_server(installed: Path) -> None:
    names = modules(installed)
    assert {"chatapi.v1.chat_service_pb2_grpc", "chatapi.v1.error_reason_pb2", "buf.validate.validate_pb2"} <= set(
        names
    )
    # Isolated, and without site-packages: nothing but the folder is there.
    alone = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, installed, *names]
    done = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_says_that_it_is_typed_and_is(installed: Path) -> None:
    for package in ("chatapi", "buf"):
        assert (installed / package / "py.typed").is_file()
    for name in modules(installed):
        assert (installed / Path(*name.split("."))).with_suffix(".pyi").is_file(), name


def test_the_wheel_has_nothing_else(installed: Path) -> None:
    [distribution] = importlib.metadata.distributions(name="chatapi", path=[str(installed)])
    tops = {file.parts[0] for file in distribution.files or ()}
    assert tops == {"chatapi", "buf", f"chatapi-{distribution.version}.dist-info"}
    assert sorted(distribution.requires or ()) == ["googleapis-common-protos", "grpcio", "protobuf"]


def test_a_type_checker_understands_the_example(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    example = tmp_path / "example.py"
    example.write_text(f"{EXAMPLE}\nreveal_type(conversation.id)\nCreateConversationRequest(request='no such field')\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", tmp_path / "cache", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert 'Revealed type is "str"' in checked.stdout
    [error] = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert 'Unexpected keyword argument "request"' in error
