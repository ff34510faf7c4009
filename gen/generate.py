"""Generates the Python stubs from the protos: `uv run gen/generate.py`; with `--check`, says whether they are equal."""

from __future__ import annotations

import filecmp
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

GEN = Path(__file__).resolve().parent
PROTO = GEN.parent / "proto"
SCRIPTS = Path(sysconfig.get_path("scripts"))
PACKAGES = ("chatapi", "buf")


def generate(target: Path) -> None:
    """Write stubs and their types for chatapi.v1 and buf.validate below `target`."""
    sources = [*sorted(PROTO.glob("chatapi/v1/*.proto")), PROTO / "vendor/buf/validate/validate.proto"]
    status = protoc.main(
        [
            "protoc",
            # protoc names a file by the first include path that holds it, so the inner one stands first.
            f"-I{PROTO / 'vendor'}",
            f"-I{PROTO}",
            f"-I{files('grpc_tools') / '_proto'}",
            *(f"--plugin={name}={SCRIPTS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *(str(source) for source in sources),
        ]
    )
    if status != 0:
        raise SystemExit(status)
    for stub in target.rglob("*_pb2_grpc.py*"):
        # protoc writes an empty module for each file without a service.
        if "Stub" not in stub.read_text():
            stub.unlink()
    for package in ("chatapi", "chatapi/v1", "buf", "buf/validate"):
        (target / package / "__init__.py").touch()
        (target / package / "py.typed").touch()


def listing(root: Path) -> set[Path]:
    return {
        path.relative_to(root)
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check() -> int:
    """0 where the committed stubs are what the protos generate, else 1 and the names that differ."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        expected, present = listing(fresh), listing(GEN)
        _, changed, broken = filecmp.cmpfiles(fresh, GEN, [str(p) for p in expected & present], shallow=False)
        stale = sorted([*changed, *broken, *map(str, expected ^ present)])
    for name in stale:
        print(f"gen/{name} is not what proto/ generates; run `uv run gen/generate.py`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        raise SystemExit(check())
    generate(GEN)
