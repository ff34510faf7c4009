"""The command; see `bench.recall`."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import bench.recall
from bench.database import fresh_database
from bench.recall.database import through_database
from bench.recall.dataset import ADVERSARIAL, Memory, corrected, from_jsonl, from_locomo
from bench.recall.measures import DEPTHS, OVERALL, PAPER, Found, Row, groups
from bench.recall.offline import Index, build_index, question_vectors
from bench.recall.plot import svg
from bench.recall.rankers import POLICY, RANKERS, WITHOUT, Search, search
from bench.replay.dataset import load
from bench.table import print_table
from chatrpc.db.engine import Database
from chatrpc.models.embedding import build_embedder
from chatrpc.ports import Embedder
from chatrpc.settings import EmbedderSettings
from chatrpc.settings import load as load_settings
from chatrpc.tokens import estimate_tokens

DATABASE = "through PostgreSQL"
HELD_OUT = "conversations held out"
PLOTTED = ("BM25", "dense", "fused", "+ neighbours", POLICY)
Ranked = dict[str, list[Found]]


def rank(index: Index, searches: Sequence[Search], rankers: Mapping[str, Callable[[Search], list[int]]]) -> Ranked:
    """What each way to rank delivers for each question."""
    return {name: [_found(index, each, ranker(each)) for each in searches] for name, ranker in rankers.items()}


def _found(index: Index, each: Search, rows: Sequence[int]) -> Found:
    messages = [index.memory.messages[row] for row in rows]
    tokens = [estimate_tokens(message.text) for message in messages]
    return Found(
        each.question, tuple(message.id for message in messages), tuple(sum(tokens[:depth]) for depth in DEPTHS)
    )


async def evaluate(
    memories: Sequence[Memory], embedder: Embedder, *, without: bool, database: Database | None
) -> Ranked:
    """All questions of some users, by way to rank; through the database as well where one is given."""
    rankers = {**RANKERS, **WITHOUT} if without else RANKERS
    result: Ranked = {}
    for memory in memories:
        index = await build_index(memory, embedder)
        vectors = await question_vectors(memory.questions, embedder)
        floor = embedder.space.floor
        searches = [search(index, *each, floor) for each in zip(memory.questions, vectors, strict=True)]
        ranked = rank(index, searches, rankers)
        if database is not None:
            rows = await through_database(index, searches, vectors, database, embedder.space)
            ranked[DATABASE] = [_found(index, *each) for each in zip(searches, rows, strict=True)]
        for name, found in ranked.items():
            result.setdefault(name, []).extend(found)
    return result


def show(title: str, ranked: Ranked) -> None:
    """The ways to rank over all questions, then the policy by category."""
    print(f"\n{title}\n")
    overall = {name: groups(found)[OVERALL] for name, found in ranked.items()}
    header = ["recall of the evidence, %", "questions", *(f"R@{depth}" for depth in DEPTHS)]
    paper = [["LoCoMo paper's best", None, *(f"{value:.1f}" for value in PAPER)]] if _is_locomo(ranked) else []
    print_table(header, [*paper, *(_cells(name, row) for name, row in overall.items())])
    policy = groups(ranked[POLICY])
    print()
    print_table(header, [_cells(f"{POLICY}, {name}", row) for name, row in policy.items()])
    print()
    tokens = [f"{value:,.0f}" for value in policy[OVERALL].tokens]
    print_table(["mean tokens delivered", "", *(f"k={depth}" for depth in DEPTHS)], [[POLICY, None, *tokens]])


def _is_locomo(ranked: Ranked) -> bool:
    return any(found.question.category == ADVERSARIAL for found in ranked[POLICY])


def _cells(name: str, row: Row) -> list[object]:
    return [name, row.questions, *(f"{value:.1f}" for value in row.recall)]


def missed(ranked: Ranked, depth: int) -> list[str]:
    """Ids of the questions of whose evidence the policy finds nothing among the first `depth`."""
    found = (each for each in ranked[POLICY] if each.question.category != ADVERSARIAL)
    return [each.question.id for each in found if not each.recall(depth)]


def as_json(ranked: Ranked) -> dict[str, Any]:
    def cells(row: Row) -> dict[str, Any]:
        recall = {f"R@{depth}": round(value, 2) for depth, value in zip(DEPTHS, row.recall, strict=True)}
        tokens = {f"tokens@{depth}": round(value) for depth, value in zip(DEPTHS, row.tokens, strict=True)}
        return {"questions": row.questions, **recall, **tokens}

    return {
        "rows": {name: {group: cells(row) for group, row in groups(found).items()} for name, found in ranked.items()},
        "missed": missed(ranked, max(DEPTHS)),
    }


async def run(sets: Mapping[str, Sequence[Memory]], *, without: bool, database: bool) -> tuple[str, dict[str, Ranked]]:
    """The embedding model's name, and the results by set."""
    async with AsyncExitStack() as stack:
        embedder = await stack.enter_async_context(build_embedder(load_settings(EmbedderSettings)))
        stored = (await stack.enter_async_context(fresh_database()))[1] if database else None
        ranked = {
            title: await evaluate(memories, embedder, without=without, database=stored)
            for title, memories in sets.items()
        }
        return embedder.space.name, ranked


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recall",
        description=bench.recall.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", metavar="PATH_OR_URL", help="a locomo10.json")
    parser.add_argument("--dataset", type=Path, help="messages and questions of your own, instead")
    parser.add_argument("--errata", type=Path, help="LoCoMo's corrected keys; measured as well")
    parser.add_argument("--tuning-only", action="store_true", help="leave the held-out conversations alone")
    parser.add_argument("--without", action="store_true", help="the ranking without each of its ingredients, too")
    parser.add_argument("--database", action="store_true", help="the policy over PostgreSQL's search, too")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="write a chart there, as SVG")
    arguments = parser.parse_args()
    if (arguments.source is None) == (arguments.dataset is None):
        parser.error("give a locomo10.json or --dataset")
    try:
        sets = _sets(arguments)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    model, ranked = asyncio.run(run(sets, without=arguments.without, database=arguments.database))
    print(f"embedding model: {model}")
    for title, each in ranked.items():
        show(title, each)
    if arguments.json:
        document = {"embedding_model": model, "sets": {title: as_json(each) for title, each in ranked.items()}}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if arguments.plot:
        title = HELD_OUT if HELD_OUT in ranked else [*ranked][-1]
        lines = {name: groups(ranked[title][name])[OVERALL].recall for name in PLOTTED}
        paper = {"LoCoMo paper's best": PAPER} if _is_locomo(ranked[title]) else {}
        arguments.plot.write_text(svg(f"Recall of the evidence, {title}", {**paper, **lines}), "utf-8")


def _sets(arguments: argparse.Namespace) -> dict[str, Sequence[Memory]]:
    """The users by the title under which they are reported."""
    if arguments.dataset:
        return {str(arguments.dataset): from_jsonl(arguments.dataset)}
    memories = from_locomo(load(arguments.source))
    keys = {"": memories}
    if arguments.errata:
        keys[", corrected keys"] = corrected(memories, json.loads(arguments.errata.read_text("utf-8")))
    sets: dict[str, Sequence[Memory]] = {}
    for key, these in keys.items():
        sets[f"conversations tuned on{key}"] = [memory for memory in these if memory.tuned_on]
        if not arguments.tuning_only:
            sets[f"{HELD_OUT}{key}"] = [memory for memory in these if not memory.tuned_on]
    return {title: these for title, these in sets.items() if these}


if __name__ == "__main__":
    main()
