"""The lock of a data directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatrpc.dev.lock import held
from chatrpc.errors import SettingsError

HOLDER = """
import sys
from pathlib import Path
from chatrpc.dev.lock import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_another_process_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SettingsError, match=f"in use by process {holder.pid};"), held(tmp_path):
            pass
        holder.kill()
    with held(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_directory_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / "made" / "here"):
        raise ZeroDivisionError
    with held(tmp_path / "made" / "here"):
        pass


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    deadline = time.monotonic() + 20
    try:
        while True:
            # The kernel lets the parent go on a moment before it closes the descriptor in the child.
            try:
                with held(tmp_path):
                    break
            except SettingsError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        child.communicate(b"\n")
