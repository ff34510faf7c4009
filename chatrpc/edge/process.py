"""Envoy as a child process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from chatrpc.edge.binary import CONFIG_NAME, EnvoyError, envoy_binary, reason

# A first start waits for the upstream's health check and the key set: each ends by its own timeout.
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0
_POLL_INTERVAL = 0.02
_LOG_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """A running Envoy.

    Attributes:
        admin_address: `host:port` of its admin endpoint.
        log_path: Its own log and its access log.
    """

    admin_address: str
    log_path: Path
    _process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait until it ends by itself; its exit code, negative for a signal."""
        return await self._process.wait()

    def failure(self) -> str:
        """What it logged last, for a sentence about its end."""
        return reason(_tail(self.log_path))


@asynccontextmanager
async def run_envoy(
    bootstrap_text: str, *, log_path: Path | None = None, concurrency: int = 1
) -> AsyncIterator[EnvoyProcess]:
    """Run Envoy while the context is open; it is ready when the context opens.

    It has a process group of its own, so a Ctrl-C in the terminal does not end it before its parent has decided to.

    Args:
        log_path: Where its log goes, appended; a temporary file where absent.
        concurrency: Worker threads.

    Raises:
        EnvoyError: It is absent or does not start, for example because a port is in use; the sentence says why.
    """
    with TemporaryDirectory(prefix="chatrpc-envoy-") as name:
        folder = Path(name)
        config, admin = folder / CONFIG_NAME, folder / "admin"
        config.write_text(bootstrap_text, encoding="utf-8")
        log = log_path if log_path is not None else folder / "log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                envoy_binary(),
                *("--config-path", config),
                *("--admin-address-path", admin),
                *("--concurrency", str(concurrency)),
                *("--log-level", "warning"),
                # Hot restart shares memory by a number that two Envoys on one machine would have to differ in.
                "--disable-hot-restart",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield EnvoyProcess(await _until_ready(process, admin, log), log, process)
        finally:
            await _stop(process)


async def _until_ready(process: asyncio.subprocess.Process, admin: Path, log: Path) -> str:
    """Wait for its admin endpoint to say ready; the endpoint's address.

    The address comes from the file that Envoy writes once it holds the port, so that another Envoy on the same
    port is not taken for this one.
    """
    ended = asyncio.ensure_future(process.wait())
    ready = asyncio.ensure_future(_poll_ready(admin))
    try:
        await asyncio.wait((ended, ready), timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise EnvoyError(f"Envoy did not start: {reason(_tail(log))}.")
        if not ready.done():
            raise EnvoyError(f"Envoy was not ready after {_START_TIMEOUT:.0f} s: {reason(_tail(log))}.")
        return ready.result()
    finally:
        ended.cancel()
        ready.cancel()


async def _poll_ready(admin: Path) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
        while True:
            if address := _read(admin):
                try:
                    answer = await client.get(f"http://{address}/ready")
                except httpx.TransportError:
                    pass
                else:
                    if answer.status_code == httpx.codes.OK:
                        return address
            await asyncio.sleep(_POLL_INTERVAL)


def _read(admin: Path) -> str:
    """The address in the file, or nothing while Envoy has not written it."""
    return admin.read_text(encoding="utf-8").strip() if admin.exists() else ""


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")
