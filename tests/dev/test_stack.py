"""How the stack ends together."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatrpc.dev.postgres import run_postgres
from chatrpc.dev.stack import DataDirectory, PartEndedError, step, stopped_by_signals, until_one_ends

COMMAND = """
import asyncio, signal, sys
from contextlib import AsyncExitStack
from pathlib import Path
from chatrpc.dev.lock import held
from chatrpc.dev.postgres import run_postgres
from chatrpc.dev.stack import DataDirectory, step, stopped_by_signals, until_one_ends

async def main():
    data = DataDirectory(Path(sys.argv[1]))
    with stopped_by_signals(), held(data.root):
        async with AsyncExitStack() as stack:
            with step("PostgreSQL"):
                postgres = await stack.enter_async_context(run_postgres(data.postgres, durable=False))
            print(postgres.pid, flush=True)
            await until_one_ends({"PostgreSQL": postgres})
    print("ended", flush=True)

asyncio.run(main())
"""


class Process:
    """A part whose end a test decides."""

    def __init__(self) -> None:
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def failure(self) -> str:
        return "out of memory."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_block_and_lets_it_clean_up(number: signal.Signals) -> None:
    cleaned = []
    with stopped_by_signals():
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            # Further signals do not tear into this.
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.append("yes")
    assert cleaned == ["yes"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_by_others_is_not_taken_for_a_signal() -> None:
    async def block() -> None:
        with stopped_by_signals():
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), stopped_by_signals():
        raise ZeroDivisionError


async def test_the_part_that_ended_is_named_with_what_it_said() -> None:
    first, second = Process(), Process()
    ending = asyncio.create_task(until_one_ends({"PostgreSQL": first, "Envoy": second}))
    await asyncio.sleep(0)
    assert not ending.done()
    second.code.set_result(-9)
    with pytest.raises(PartEndedError, match=r"^Envoy ended by itself with exit code -9: out of memory\.$"):
        await ending


async def test_a_killed_server_ends_the_stack(tmp_path: Path) -> None:
    async with run_postgres(tmp_path, durable=False) as postgres:
        os.kill(postgres.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            with pytest.raises(PartEndedError, match="PostgreSQL ended by itself with exit code -9"):
                await until_one_ends({"PostgreSQL": postgres})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_one_signal_ends_a_whole_command(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert int(await process.stdout.readline()) > 0
    process.send_signal(number)
    async with asyncio.timeout(30):
        output, errors = await process.communicate()
    assert (process.returncode, output) == (0, b"ended\n")
    assert b"Traceback" not in errors
    assert not (DataDirectory(tmp_path).postgres / "cluster" / "postmaster.pid").exists()


async def test_ctrl_c_at_the_terminal_reaches_only_the_command_itself(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, str(tmp_path), stdout=subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    postgres = int(await process.stdout.readline())
    try:
        assert os.getpgid(postgres) != process.pid
    finally:
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(30):
            await process.communicate()
    assert process.returncode == 0


async def test_a_signal_during_the_start_ends_it_too(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert await process.stderr.readline() == b"PostgreSQL: starting\n"
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        output, errors = await process.communicate()
    assert (process.returncode, output, errors) == (0, b"ended\n", b"")


def test_steps_are_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with step("PostgreSQL"):
        pass
    output = capsys.readouterr()
    assert output.out == ""
    starting, ready = output.err.splitlines()
    assert starting == "PostgreSQL: starting"
    assert ready.startswith("PostgreSQL: ready after ")


def test_a_failed_step_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), step("PostgreSQL"):
        raise ZeroDivisionError
    assert "ready" not in capsys.readouterr().err
