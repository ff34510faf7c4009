"""What embedding costs: `uv run python -m bench.embedding [--threads N] [--rounds N]`.

Prints, for each embedder that is installed: seconds until it is ready in a fresh process, imports included; median
milliseconds for a message of 21 tokens, alone and as one of a batch of 32, tokenizing, queue and thread included; the
wait of a question that comes while a bulk job runs; and the process's memory. Each embedder runs in a process of its
own. Where sentence-transformers is installed, its figures are also given as a ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# 19 WordPiece tokens and two special ones.
MESSAGE = "user: We moved the meeting with Anna to Thursday, so I can bring the garden plans."
LONG_MESSAGE = "user: " + "We walked along the river for hours and spoke of the years behind us. " * 15

ROWS = {
    "start_s": "start, seconds",
    "single_ms": "one message of 21 tokens, ms",
    "batch_ms": "the same in a batch of 32, ms each",
    "question_ms": "a question during a bulk job, ms",
    "bulk_per_s": "passages of 229 tokens a second",
    "rss_mb": "resident memory, MB",
}


async def measure(kind: str, cache_dir: str, threads: int, rounds: int) -> dict[str, float]:
    """Start one embedder and time it."""
    started = time.perf_counter()
    from chatrpc.models.embedding import build_embedder
    from chatrpc.settings import EmbedderSettings

    async with build_embedder(EmbedderSettings(kind=kind, cache_dir=cache_dir, threads=threads)) as embedder:
        figures = {"start_s": time.perf_counter() - started}
        for name, texts, repeats in (("single_ms", [MESSAGE], rounds), ("batch_ms", [MESSAGE] * 32, rounds // 8 + 1)):
            await embedder.embed(texts)
            times = []
            for _ in range(repeats):
                before = time.perf_counter()
                await embedder.embed(texts)
                times.append(time.perf_counter() - before)
            figures[name] = 1_000 * statistics.median(times) / len(texts)
        bulk = asyncio.create_task(embedder.embed([f"{n} {LONG_MESSAGE}" for n in range(64)]))
        before_bulk = time.perf_counter()
        waits = []
        while not bulk.done():
            before = time.perf_counter()
            await embedder.embed([MESSAGE])
            waits.append(time.perf_counter() - before)
        figures["question_ms"] = 1_000 * statistics.median(waits)
        figures["bulk_per_s"] = 64 / (time.perf_counter() - before_bulk)
        figures["rss_mb"] = _resident_megabytes()
    return figures


def _resident_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1_024


def _in_a_process(kind: str, cache_dir: str, threads: int, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.embedding", "--only", kind, "--cache-dir", cache_dir]
    output = subprocess.run(
        [*command, "--threads", str(threads), "--rounds", str(rounds)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one inference")
    parser.add_argument("--rounds", type=int, default=200, help="single messages timed")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(asyncio.run(measure(options.only, options.cache_dir, options.threads, options.rounds))))
        return
    columns = {}
    with tempfile.TemporaryDirectory() as cache_dir:
        columns["onnx, first start"] = _in_a_process("onnx", cache_dir, options.threads, options.rounds)
        columns["onnx"] = _in_a_process("onnx", cache_dir, options.threads, options.rounds)
        if importlib.util.find_spec("sentence_transformers") is not None:
            oracle = _in_a_process("sentence-transformers", cache_dir, options.threads, options.rounds)
            columns["sentence-transformers"] = oracle
            columns["ratio to onnx"] = {name: oracle[name] / columns["onnx"][name] for name in ROWS}
    print(f"{'':36}" + "".join(f"{name:>24}" for name in columns))
    for row, label in ROWS.items():
        print(f"{label:36}" + "".join(f"{figures[row]:24.2f}" for figures in columns.values()))


if __name__ == "__main__":
    main()
