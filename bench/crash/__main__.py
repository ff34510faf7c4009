"""Everything is killed, restarted and stalled under load: `uv run python -m bench.crash`.

Two `chatrpc serve` processes behind Envoy share a durable PostgreSQL and a Redis; the provider is scripted. People
talk in many conversations at once, over the client library through Envoy and over plain calls at any door: they lose
answers, send again with the same key, resume at another door, read replies twice, stop some, and send without waiting.
Meanwhile servers are killed (SIGKILL), both at once at times, and started again; PostgreSQL (SIGKILL, SIGQUIT) and
Redis (SIGKILL) are restarted; the provider errs, hangs, cuts and sends nonsense; every network link stalls for a while
or is cut, by a proxy before each part, at times for longer than a lease. Servers are also stopped (SIGSTOP) for longer
than a lease, and go on. All of it is drawn from the seed and spread over the turns; what meets what is not repeatable.

At the end the database is read past the product's own code, and held against what every client was told and what the
provider wrote. Each violation is printed, and the run then ends with exit code 1 and keeps its directory.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from random import Random

from bench.crash.checker import Violation, by_kind, check
from bench.crash.clients import Person
from bench.crash.faults import Faults
from bench.crash.history import History
from bench.crash.provider import Script
from bench.crash.stack import Stack, records, run_stack
from bench.crash.stored import pending, read_bookings, read_messages, read_sums
from bench.table import percentile, print_table
from chatrpc.turns.lease import LEASE
from tests.support.provider import Provider

PEOPLE = 64
USERS = 16
# Seconds between two turns of a person at most.
PAUSE = 2.0
# Seconds until all that was left behind is finished, once everything stands again.
PATIENCE = 90.0
# From SIGKILL to the next attempt's first event.
TAKEOVER_BAR = LEASE.total_seconds() + 5
SHOWN = 50


async def run(options: argparse.Namespace, directory: Path) -> int:
    """Returns the exit code."""
    history = History()
    began = time.monotonic()
    async with Provider() as provider, run_stack(directory, provider) as stack:
        script = Script(provider, options.seed, options.turns, options.faults)
        faults = Faults(stack, history, script, Random(f"faults {options.seed}"))
        progress = asyncio.create_task(_report(history, script, faults))
        try:
            await _talk(options, history, stack, faults)
            await _settle(stack)
        finally:
            progress.cancel()
        history.served = script.served()
        history.stored = await read_messages(stack.postgres.server.url)
        history.booked = await read_bookings(stack.postgres.server.url)
        history.sums = await read_sums(stack.postgres.server.url)
        logs = stack.logs
    violations = check(history)
    _print(options, history, script, faults, logs, time.monotonic() - began)
    return _verdict(violations, history)


async def _talk(options: argparse.Namespace, history: History, stack: Stack, faults: Faults) -> None:
    """All turns, and all faults among them."""
    taken = 0

    async def take() -> bool:
        nonlocal taken
        taken += 1
        mine = taken
        await faults.keep_up(mine, options.turns, options.kills)
        # A message that was refused is no turn.
        return bool(mine <= options.turns + history.refused)

    people = [
        Person(
            history,
            Random(f"person {options.seed} {number}"),
            take,
            stack.doors,
            stack.issuer.mint(f"user-{number % USERS}", ttl=86_400),
            PAUSE,
        )
        for number in range(min(PEOPLE, options.turns))
    ]
    async with asyncio.TaskGroup() as work:
        work.create_task(faults.run(options.turns, options.kills, options.restarts))
        for person in people:
            work.create_task(person.talk())


async def _settle(stack: Stack) -> None:
    """Wait until no reply is pending."""
    deadline = time.monotonic() + PATIENCE
    while await pending(stack.postgres.server.url):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.5)


async def _report(history: History, script: Script, faults: Faults) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(60)
        done = f"{history.finished} turns, {faults.counts['kills']} kills, {faults.counts['restarts']} restarts"
        print(f"{(time.monotonic() - began) / 60:3.0f} min: {done}, {sum(script.faults.values())} faults", flush=True)


def _print(
    options: argparse.Namespace, history: History, script: Script, faults: Faults, logs: Path, seconds: float
) -> None:
    counts: Counter[str] = Counter()
    for row in history.stored:
        if row.ending is not None:
            failure = f" ({row.ending.error_reason})" if row.ending.error_reason else ""
            interrupted = " (interrupted)" if row.ending.finish_reason == "interrupted" else ""
            counts[f"replies {row.ending.state}{failure}{interrupted}"] += 1
            counts["replies of a later attempt than the first"] += row.ending.attempt > 1
    sent_again = sum(sent.tries > 1 or len(sent.accepted) > 1 for sent in history.sent)
    booked = [each.usage for each in history.booked]
    counts["tokens booked"] = sum(usage.prompt + usage.completion for usage in booked)
    counts["tokens booked, estimated"] = sum(usage.prompt + usage.completion for usage in booked if usage.estimated)
    counts["attempts booked"] = len(booked)
    rows: list[list[object]] = [
        ["seed", str(options.seed)],
        ["minutes", seconds / 60],
        ["turns accepted", sum(bool(sent.accepted) for sent in history.sent)],
        ["messages refused as busy", history.refused],
        ["turns sent more than once, or by a session", sent_again],
        ["readings", len(history.readings)],
        ["events read", sum(len(reading.events) for reading in history.readings)],
        *([name, number] for name, number in sorted(counts.items())),
        *([name, number] for name, number in sorted(faults.counts.items())),
        ["provider faults", sum(script.faults.values())],
        *([f"provider faults {name}", number] for name, number in sorted(script.faults.items())),
        *([f"answers {name}", number] for name, number in history.troubles.most_common()),
        *([f"logged {name}", number] for name, number in sorted(_logged(logs).items())),
    ]
    print_table(["", "number"], rows)
    _print_takeovers(history, logs)


def _logged(logs: Path) -> Counter[str]:
    """What servers logged as errors of their own."""
    return Counter(
        str(record.get("event"))[:100]
        for log in logs.iterdir()
        for record in records(log)
        if record.get("level") in ("error", "critical")
    )


def _print_takeovers(history: History, logs: Path) -> None:
    """Times from SIGKILL to the next attempt's first event, as its process or the first reader saw it."""
    clear: list[float] = []
    hindered: list[float] = []
    begun = _taken_over(logs)
    for orphan in history.orphans:
        name = (orphan.reply_id, orphan.attempt + 1)
        seen = [times[name] for times in (begun, history.first_told) if name in times]
        if not seen:
            continue
        met = any(began < orphan.killed + TAKEOVER_BAR and ended > orphan.killed for _, began, ended in history.outages)
        (hindered if met else clear).append(min(seen) - orphan.killed)
    rows: list[list[object]] = [
        [name, len(times), *(percentile(times, share) for share in (0.5, 0.99, 1.0)), TAKEOVER_BAR]
        for name, times in (("the others were there", clear), ("not all of them were", hindered))
    ]
    print_table(["takeover, seconds after the kill", "replies", "p50", "p99", "max", "bar"], rows)


def _taken_over(logs: Path) -> dict[tuple[str, int], float]:
    """When attempts began that a process began by itself, in monotonic seconds."""
    offset = time.monotonic() - time.time()
    return {
        (record["reply_id"], record["attempt"]): datetime.fromisoformat(record["timestamp"]).timestamp() + offset
        for log in logs.iterdir()
        for record in records(log)
        if record.get("event") == "taken_over"
    }


def _verdict(violations: list[Violation], history: History) -> int:
    print_table(["violations", "number"], [[kind.value, number] for kind, number in by_kind(violations).items()])
    for violation in violations[:SHOWN]:
        print(f"{violation.kind}: {violation.subject}: {violation.sentence}")
        for reading in history.readings:
            if reading.reply_id == violation.subject:
                told = ", ".join(f"{event.kind} {event.attempt}.{event.sequence}" for event in reading.events)
                print(f"    {reading.door} after {reading.after}: {told}")
    return 1 if violations else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs of server processes")
    parser.add_argument("--restarts", type=int, default=30, help="of PostgreSQL and Redis")
    parser.add_argument("--faults", type=int, default=1_000, help="of the provider")
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6), help="of all that is drawn")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chatrpc-crash-"))
    # uvloop forks, which gRPC remarks upon at each start of a server.
    code = asyncio.run(run(options, directory))
    if code:
        print(f"What the servers logged is kept in {directory / 'logs'}.")
    else:
        shutil.rmtree(directory)
    sys.exit(code)


if __name__ == "__main__":
    main()
