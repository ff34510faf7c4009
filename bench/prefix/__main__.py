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
# What is tried beside the given settings: B, hits, and what the hits may cost together.
SWEEP = (
    (10, 8, 100_000),
    (40, 8, 100_000),
    (80, 8, 100_000),
    (10, 8, 1_000),
    (20, 8, 1_000),
    (40, 8, 1_000),
    (80, 8, 1_000),
    (40, 8, 700),
    (40, 0, 1_000),
)
SMALL_WINDOW, LARGE_WINDOW = 4_096, 131_072


@dataclass(frozen=True, slots=True)
class Setup:
    """What one row of the table is about."""

    lengths: Lengths
    keep: int
    fold: int
    hits: int
    hits_tokens: int
    window: int

    @property
    def name(self) -> str:
        hits = f"{self.hits} hits of {self.hits_tokens:,}"
        return f"{self.lengths.name}, window {self.window:,}, K={self.keep}, B={self.fold}, {hits}"


async def run(setups: Sequence[Setup], turns: int, seeds: int) -> dict[Setup, list[Turn]]:
    measured: dict[Setup, list[Turn]] = {}
    async with build_embedder(EmbedderSettings()) as embedder, fresh_database() as (_, database):
        space_id = await VectorStore(database).register_space(embedder.space)
        remembering = RememberingEmbedder(embedder)
        for setup in setups:
            context = ContextSettings(
                hot_path=setup.keep,
                fold=setup.fold,
                hits=setup.hits,
                hits_tokens=setup.hits_tokens,
                retrieval_timeout=60,
            )
            model = ModelSettings(context_window=setup.window, output_reserve=setup.window // 8)
            measured[setup] = []
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                conversation = Conversation(database, remembering, space_id, context, model)
                measured[setup] += await conversation.hold(turns, setup.lengths, seed)
            print(f"{setup.name}: {_share(measured[setup]):.1f} %", flush=True)
    return measured


def _share(turns: Sequence[Turn]) -> float:
    return 100 * sum(turn.equal for turn in turns) / sum(turn.size for turn in turns)


def _possible(turns: Sequence[Turn]) -> float:
    """What would be served of the same prompts if nothing ever left them."""
    return 100 - 100 * sum(turn.new for turn in turns) / sum(turn.size for turn in turns)


def show(measured: dict[Setup, list[Turn]]) -> None:
    rows = []
    for setup, turns in measured.items():
        size = sum(turn.size for turn in turns)
        served = sum(turn.equal for turn in turns)
        tokens = [turn.size / BYTES_A_TOKEN for turn in turns]
        rows.append(
            (
                setup.name,
                _share(turns),
                _possible(turns),
                100 * sum(turn.in_blocks(16) for turn in turns) / size,
                100 * sum(turn.in_blocks(128, 1_024) for turn in turns) / size,
                round(mean(tokens)),
                round(percentile(tokens, 0.95)),
                round((size - served) / BYTES_A_TOKEN / len(turns)),
                round(mean(turn.tail for turn in turns) / BYTES_A_TOKEN),
                mean(turn.hits for turn in turns),
                sum(turn.left_out for turn in turns),
                round((size - served + CACHED_PRICE * served) / BYTES_A_TOKEN / len(turns)),
            )
        )
    print_table(
        (
            "",
            "served %",
            "at most",
            "blocks of 16",
            "OpenAI's",
            "tokens",
            "p95",
            "full price",
            "tail",
            "hits",
            "turns under pressure",
            "paid at a tenth",
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
    parser.add_argument("--hits-tokens", type=int, default=defaults.hits_tokens, help="that they may cost together")
    parser.add_argument("--seeds", type=int, default=1, help="conversations of each row")
    parser.add_argument("--sweep", action="store_true", help="other settings too")
    parser.add_argument("--json", type=Path, help="file to write a row for each turn to")
    given = parser.parse_args()
    # Conversations that are said as fast as this are no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asked = (given.fold, given.hits, given.hits_tokens)
    sizes: dict[tuple[int, int, int], None] = dict.fromkeys((asked, *(SWEEP if given.sweep else ())))
    default_window = ModelSettings().context_window
    setups = [
        Setup(lengths, given.keep, *size, window)
        for lengths in (LMSYS, WILDCHAT)
        for window in (default_window, LARGE_WINDOW)
        for size in sizes
    ]
    setups += [Setup(lengths, given.keep, *asked, SMALL_WINDOW) for lengths in (LMSYS, WILDCHAT)]
    measured = uvloop.run(run(setups, given.turns, given.seeds))
    show(measured)
    for setup in setups:
        if (setup.fold, setup.hits, setup.hits_tokens) != asked or setup.window == SMALL_WINDOW:
            continue
        share, possible = _share(measured[setup]), _possible(measured[setup])
        verdict = "met" if share >= BAR else "MISSED"
        print(f"bar: {BAR:.0f} % with {setup.name}: {verdict} ({share:.1f} %, of {possible:.1f} possible)")
    if given.json is not None:
        rows = [asdict(setup) | asdict(turn) for setup, turns in measured.items() for turn in turns]
        given.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
