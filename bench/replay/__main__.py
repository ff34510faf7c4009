"""The command; see `bench.replay`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import bench.replay
from bench.replay.dataset import CATEGORIES, Dialogue, dialogue, load
from bench.replay.measures import DEPTHS, Asked, mean
from bench.replay.run import Replay, replay
from bench.stack import run_stack
from bench.table import percentile, print_table
from chatrpc.client import connect
from chatrpc.settings import ContextSettings
from chatrpc.settings import load as load_settings
from tests.support.answers import Answer
from tests.support.provider import Provider
from tests.support.summarizing import follow

ACKNOWLEDGEMENT = "OK."
# In the default window, the share of the budget that retrieved passages may take holds some 35 of LoCoMo's turns.
WINDOW = {"CHATRPC_MODEL_CONTEXT_WINDOW": "65536"}


def scripted(body: dict[str, object]) -> Answer:
    """Fold where a summariser asks; acknowledge everything else."""
    messages = body["messages"]
    assert isinstance(messages, list)
    summary = follow(messages[-1]["content"])
    return Answer(deltas=(ACKNOWLEDGEMENT if summary is None else summary,))


@asynccontextmanager
async def _own_stack(model: str) -> AsyncIterator[tuple[str, str]]:
    """Endpoint and token of a stack of our own."""
    if model == "offline":
        async with run_stack(WINDOW) as stack:
            yield stack.endpoint, stack.token
        return
    async with Provider() as provider:
        provider.answer = scripted
        endpoint = {"CHATRPC_MODEL_BASE_URL": provider.base_url, "CHATRPC_MODEL_NAME": "scripted"}
        async with run_stack({**WINDOW, **endpoint}) as stack:
            yield stack.endpoint, stack.token


async def run(said: Dialogue, model: str = "scripted", endpoint: str = "", token: str = "") -> Replay:
    """Replay a dialogue to a running server, or to a stack of our own where no endpoint is given."""
    settings = load_settings(ContextSettings)
    if endpoint:
        async with connect(endpoint, token) as client:
            return await replay(client, said, settings)
    async with _own_stack(model) as (own_endpoint, own_token), connect(own_endpoint, own_token) as client:
        return await replay(client, said, settings)


def show(result: Replay) -> None:
    said = result.dialogue
    turns = len(said.turns)
    unmatched = [each for question in said.questions for each in question.unmatched]
    without = sum(not question.evidence for question in said.questions)
    print(f"{said.name}: {turns} turns of {said.sessions} sessions, {1_000 * result.seconds / turns:.0f} ms each")
    print(f"messages stored        {result.messages:,}: the turns and as many replies by {result.reply_model}, which")
    print("                       hold nothing and take half of the verbatim window")
    print(f"summaries made         {result.summaries}, the newest of {result.summarized} messages")
    print(f"questions              {len(result.asked)}, without evidence and left out: {without}")
    print(f"evidence unmatched     {len(unmatched)} {' '.join(unmatched)}".rstrip())
    print(f"embedding model        {result.embedding_model}\n")
    groups = {f"{number} {name}": _of(result.asked, number) for number, name in CATEGORIES.items()}
    groups["1 to 4"] = [asked for asked in result.asked if asked.question.category != 5]
    groups["all"] = list(result.asked)
    header = ["evidence found, %", "questions", *(f"R@{depth}" for depth in DEPTHS), "window", "context"]
    print_table(header, [_recall_row(name, asked) for name, asked in groups.items()])
    print("\nR@k: by retrieval alone. Window: what stood verbatim anyway, and is never retrieved. Context: verbatim or")
    print("retrieved, in a context of the server's own size.\n")
    print_table(["per question", "p50", "p95", "max"], list(_cost_rows(result.asked)))


def _of(asked: tuple[Asked, ...], category: int) -> list[Asked]:
    return [each for each in asked if each.question.category == category]


def _recall_row(name: str, asked: list[Asked]) -> list[object]:
    def percent(measure: Callable[[Asked], float]) -> str:
        return f"{100 * mean(asked, measure):.1f}" if asked else "-"

    recalls = [percent(lambda each, depth=depth: each.recall(depth)) for depth in DEPTHS]  # type: ignore[misc]
    return [name, len(asked), *recalls, percent(Asked.in_window), percent(Asked.in_context)]


def _cost_rows(asked: tuple[Asked, ...]) -> list[list[object]]:
    measures: dict[str, Callable[[Asked], float]] = {
        f"retrieved, {max(DEPTHS)} asked for": lambda each: len(each.retrieved),
        "  left out below the floor": lambda each: each.below_floor,
        "  left out for the budget": lambda each: each.over_budget,
        "context of the server's own size, tokens": lambda each: each.tokens,
        "  assembly, us": lambda each: each.assembly_micros,
        "  embedding, us": lambda each: each.embedding_micros,
        f"context with {max(DEPTHS)} asked for: assembly, us": lambda each: each.search_micros,
    }
    rows: list[list[object]] = []
    for name, measure in measures.items():
        values = [measure(each) for each in asked]
        rows.append([name, *(int(percentile(values, share)) for share in (0.5, 0.95, 1.0))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.replay",
        description=bench.replay.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="PATH_OR_URL", help="a locomo10.json")
    parser.add_argument("--conversation", help="its sample_id; the first where absent")
    parser.add_argument("--model", choices=("scripted", "offline"), default="scripted", help="who replies")
    parser.add_argument(
        "--endpoint", default="", help="of a running server, with the CHATRPC_CONTEXT_ settings of this environment"
    )
    parser.add_argument("--token", default="", help="for that server")
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.token):
        parser.error("--endpoint and --token go together")
    try:
        said = dialogue(load(options.source), options.conversation)
    except LookupError as error:
        sys.exit(str(error))
    show(asyncio.run(run(said, options.model, options.endpoint, options.token)))


if __name__ == "__main__":
    main()
