"""Keeps the exact versions of all that chatrpc is built with: `uv run --no-project infra/pin.py [--upgrade]`.

`uv.lock` names the addresses that it was made with, so it is not committed. Its versions stand in `pyproject.toml`
(`constraint-dependencies`), which every `uv sync` obeys, and with digests in `infra/requirements.txt`, from which
images install with `--require-hashes`. `--check` says whether the two are what the constraints resolve to.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = ROOT / "pyproject.toml"
REQUIREMENTS = ROOT / "infra" / "requirements.txt"
BLOCK = re.compile(r"(?<=^constraint-dependencies = \[\n).*?(?=^\]$)", re.MULTILINE | re.DOTALL)


def uv(*arguments: str) -> str:
    return subprocess.run(["uv", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def export(*arguments: str) -> str:
    return uv("export", "--quiet", "--format", "requirements.txt", "--no-emit-workspace", "--no-annotate", *arguments)


def pinned() -> str:
    """The lines of the constraints: every package but those of the extras."""
    exported = export("--no-header", "--no-hashes", "--all-groups")
    return "".join(f'    "{line}",\n' for line in exported.splitlines() if "==" in line)


def main(arguments: list[str]) -> int:
    before = PYPROJECT.read_text(), REQUIREMENTS.read_text() if REQUIREMENTS.exists() else ""
    if "--upgrade" in arguments:
        PYPROJECT.write_text(BLOCK.sub("", before[0], count=1))
        uv("lock", "--quiet", "--upgrade")
    project = BLOCK.sub(lambda _: pinned(), before[0], count=1)
    requirements = "# Made by infra/pin.py.\n" + export("--no-header", "--no-default-groups")
    if "--check" in arguments:
        if (project, requirements) == before:
            return 0
        print("The dependencies resolve to other versions; run `uv run --no-project infra/pin.py`.", file=sys.stderr)
        return 1
    PYPROJECT.write_text(project)
    REQUIREMENTS.write_text(requirements)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
