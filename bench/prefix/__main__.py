"""The command; see `bench.prefix`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import structlog
import uvloop

import bench.prefix
from bench.database import fresh_database
from bench.prefix.run import BYTES_A_TOKEN, Conversation, RememberingEmbedder, Turn
from bench.prefix.talk import LMSYS, WILDCHAT, Lengths
from bench.table import percentile, print_table
from chatrpc.db.vectors import VectorStore
from chatrpc.models.embedding import build_embedder
from chatrpc.settings import ContextSettings, EmbedderSettings, ModelSettings

BAR = 80.0
CACHED_PRICE = 0.1
FIRST_SEED = 1
# What is tried beside the given settings: K, B and hits.
SWEEP = (
    (10, 10, 8),
    (10, 20, 8),
    (10, 30, 8),
    (10, 40, 8),
    (10, 60, 8),
    (10, 10, 4),
    (10, 30, 4),
    (10, 40, 4),
    (10, 60, 4),
    (10, 40, 0),
)
SMALL_WINDOW = 4_096


@dataclass(frozen=True, slots=True)
class Setup:
    """What one row of the table is about."""

    lengths: Lengths
    keep: int
    fold: int
    hits: int
    window: int

    @property
    def name(self) -> str:
        return f"{self.lengths.name}, K={self.keep}, B={self.fold}, hits={self.hits}, window {self.window:,}"


async def run(setups: Sequence[Setup], turns: int, seeds: int) -> dict[Setup, list[Turn]]:
    measured: dict[Setup, list[Turn]] = {}
    async with build_embedder(EmbedderSettings()) as embedder, fresh_database() as (_, database):
        space_id = await VectorStore(database).register_space(embedder.space)
        remembering = RememberingEmbedder(embedder)
        for setup in setups:
            context = ContextSettings(hot_path=setup.keep, fold=setup.fold, hits=setup.hits, retrieval_timeout=60)
            model = ModelSettings(context_window=setup.window, output_reserve=setup.window // 8)
            measured[setup] = []
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                conversation = Conversation(database, remembering, space_id, context, model)
                measured[setup] += await conversation.hold(turns, setup.lengths, seed)
            print(f"done: {setup.name}", flush=True)
    return measured


def show(measured: dict[Setup, list[Turn]]) -> None:
    baseline: dict[Lengths, float] = {}
    rows = []
    for setup, turns in measured.items():
        size = sum(turn.size for turn in turns)
        served = sum(turn.equal for turn in turns)
        full = baseline.setdefault(setup.lengths, size)
        tokens = [turn.size / BYTES_A_TOKEN for turn in turns]
        rows.append(
            (
                setup.name,
                100 * served / size,
                100 * sum(turn.in_blocks(16) for turn in turns) / size,
                100 * sum(turn.in_blocks(128, 1_024) for turn in turns) / size,
                round(mean(tokens)),
                round(percentile(tokens, 0.95)),
                round((size - served) / BYTES_A_TOKEN / len(turns)),
                round(mean(turn.tail for turn in turns) / BYTES_A_TOKEN),
                mean(turn.hits for turn in turns),
                sum(turn.left_out for turn in turns),
                100 * (size - served + CACHED_PRICE * served) / full,
            )
        )
    print_table(
        (
            "",
            "served %",
            "blocks of 16",
            "OpenAI's",
            "tokens",
            "p95",
            "full price",
            "tail",
            "hits",
            "turns under pressure",
            "cost at a tenth",
        ),
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.prefix", description=bench.prefix.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = ContextSettings()
    parser.add_argument("--turns", type=int, default=500, help="turns of a conversation")
    parser.add_argument("--keep", type=int, default=defaults.hot_path, help="K")
    parser.add_argument("--fold", type=int, default=defaults.fold, help="B")
    parser.add_argument("--hits", type=int, default=defaults.hits, help="retrieved passages at most")
    parser.add_argument("--seeds", type=int, default=1, help="conversations of each row")
    parser.add_argument("--sweep", action="store_true", help="other settings too")
    parser.add_argument("--json", type=Path, help="file to write a row for each turn to")
    given = parser.parse_args()
    # Conversations that are said as fast as this are no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    window = ModelSettings().context_window
    sizes: list[tuple[int, int, int]] = [(given.keep, given.fold, given.hits), *(SWEEP if given.sweep else ())]
    both = (LMSYS, WILDCHAT)
    setups = [Setup(each, *size, window) for each in both for size in dict.fromkeys(sizes)]
    setups += [Setup(each, *sizes[0], SMALL_WINDOW) for each in both]
    measured = uvloop.run(run(setups, given.turns, given.seeds))
    show(measured)
    judged = [setup for setup in setups[: len(setups) - 2] if (setup.keep, setup.fold, setup.hits) == sizes[0]]
    for setup in judged:
        share = 100 * sum(turn.equal for turn in measured[setup]) / sum(turn.size for turn in measured[setup])
        print(f"bar: {BAR:.0f} % with {setup.name}: {'met' if share >= BAR else 'MISSED'} ({share:.1f} %)")
    if given.json is not None:
        rows = [asdict(setup) | asdict(turn) for setup, turns in measured.items() for turn in turns]
        given.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
