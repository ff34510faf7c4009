"""A run of tests that is told to end takes down what it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest

PATIENCE = 60.0

WAITING = """
import asyncio
from pathlib import Path

import pytest_asyncio

HERE = Path(__file__).parent

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started():
    yield
    (HERE / "taken down").touch()

async def test_waits(started):
    (HERE / "waiting").touch()
    await asyncio.sleep(600)
"""


async def test_sigterm_ends_a_run_and_its_workers_in_order(tmp_path: Path) -> None:
    (tmp_path / "test_waiting.py").write_text(WAITING)
    root = Path(__file__).parents[1]
    arguments = [f"--rootdir={tmp_path}", f"--config-file={root}/pyproject.toml", "-p", "tests.conftest", "-n", "1"]
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *arguments, str(tmp_path)),
        cwd=root,
        stdout=DEVNULL,
        start_new_session=True,
        # As a script's shell begins what it does not wait for.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not (tmp_path / "waiting").exists():
                assert run.returncode is None
                await asyncio.sleep(0.02)
            # To its workers, too, as supervisors do.
            os.killpg(run.pid, signal.SIGTERM)
            assert await run.wait() == pytest.ExitCode.INTERRUPTED
    finally:
        if run.returncode is None:
            os.killpg(run.pid, signal.SIGKILL)
            await run.wait()
    assert (tmp_path / "taken down").exists()
