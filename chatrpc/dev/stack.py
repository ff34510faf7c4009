"""What holds the embedded stack together: where its data lies, and how all of it ends together.

The parts are asynchronous context managers, entered in order on one `contextlib.AsyncExitStack`:

    with stopped_by_signals():
        async with AsyncExitStack() as stack:
            with step("PostgreSQL"):
                postgres = await stack.enter_async_context(run_postgres(data.postgres))
            ...
            await until_one_ends({"PostgreSQL": postgres, "Envoy": envoy})
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import click

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Everything that outlives a run of `chatrpc dev`; its lock is `held(root)`."""

    root: Path

    @property
    def postgres(self) -> Path:
        """For `run_postgres`."""
        return self.root / "postgres"

    @property
    def issuer(self) -> Path:
        """For `LocalIssuer`."""
        return self.root / "issuer"

    @property
    def envoy_log(self) -> Path:
        """Envoy's own log and its access log."""
        return self.root / "envoy.log"


class Part(Protocol):
    """A running child process of the stack."""

    async def wait(self) -> int:
        """Wait until it ends by itself; its exit code, negative for a signal."""
        ...

    def failure(self) -> str:
        """What it logged last."""
        ...


class PartEndedError(Exception):
    """A part of the stack ended by itself; the text is one sentence that says which and why."""


async def until_one_ends(parts: Mapping[str, Part]) -> NoReturn:
    """Wait for as long as all parts run.

    Args:
        parts: By the names that people know them by.

    Raises:
        PartEndedError: One ended.
    """
    waiting = {asyncio.ensure_future(part.wait()): (name, part) for name, part in parts.items()}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    ended = next(iter(done))
    name, part = waiting[ended]
    raise PartEndedError(f"{name} ended by itself with exit code {ended.result()}: {part.failure().rstrip('.')}.")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the block, whatever it is waiting for, by cancelling its task once.

    The block's context managers clean up as they do for any end. Further signals are ignored meanwhile, since a
    second cancellation would tear into the cleaning up and leave processes behind.
    """
    task = asyncio.current_task()
    assert task is not None, "signals stop a task"
    loop = asyncio.get_running_loop()
    signalled = False

    def stop() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            task.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        # Somebody else's cancellation goes on.
        if not signalled or task.uncancel() > 0:
            raise
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Tell on standard error what is being started, and how long it took."""
    click.echo(f"{name}: starting", err=True)
    started = time.monotonic()
    yield
    click.echo(f"{name}: ready after {time.monotonic() - started:.1f} s", err=True)
