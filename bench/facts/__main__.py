"""The command; see `bench.facts`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

import bench.facts
from bench.database import fresh_database
from bench.facts.models import Answer, ScriptedModel, bloats, forgets, good, truncates
from bench.facts.plant import HELD_OUT, KINDS, SENTENCES, Script, Templates, script
from bench.facts.run import Conversation, Found, Outcome
from bench.table import print_table
from chatrpc.db.vectors import VectorStore
from chatrpc.models.embedding import build_embedder
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.models.summary.model import ModelSummarizer
from chatrpc.ports import Summarizer
from chatrpc.settings import EmbedderSettings

# Seeds 1 to 4 were looked at while the summariser and its scripted models were written.
FIRST_SEED = 11
WINDOW = 16_384
MODELS: dict[str, Answer] = {"follows": good, "forgets": forgets, "truncates": truncates, "bloats": bloats}
# Of the extractive summariser, by what it is judged on.
SAID: dict[str, Templates] = {"extractive": SENTENCES, "extractive, held out": HELD_OUT}


async def run(turns: int, seeds: int, names: Sequence[str]) -> dict[str, list[Outcome]]:
    """All conversations; the outcomes by the summariser's name."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    async with build_embedder(EmbedderSettings()) as embedder, fresh_database() as (_, database):
        space_id = await VectorStore(database).register_space(embedder.space)
        for name in names:
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                said = script(SAID.get(name, SENTENCES), seed, turns)
                conversation = Conversation(database, embedder, space_id, _summarizer(name, said))
                outcomes[name].append(await conversation.say(said))
    return outcomes


def _summarizer(name: str, said: Script) -> Summarizer:
    if name in SAID:
        return ExtractiveSummarizer()
    return ModelSummarizer(ScriptedModel(name, MODELS[name], turns_bad=2 * len(said.planted)), None, WINDOW)


def show(outcomes: dict[str, list[Outcome]]) -> None:
    """The tables: by summariser, and by kind of fact."""
    print_table(
        ("summariser", "planted", "in facts %", "in summary %", "or retrieved %", "own versions", "fallback", "tokens"),
        [_row(name, each) for name, each in outcomes.items()],
    )
    print()
    print("In summary or retrieved, %, by kind of fact:")
    print_table(
        ("summariser", *KINDS),
        [
            (name, *(_share(_of(each, kind), lambda found: found.in_summary or found.retrieved) for kind in KINDS))
            for name, each in outcomes.items()
        ],
    )


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[object, ...]:
    found = [each for outcome in outcomes for each in outcome.found]
    own = sum(
        n for outcome in outcomes for model, n in outcome.versions.items() if model in (name, "chatrpc-extractive")
    )
    fallback = sum(outcome.versions.get("chatrpc-extractive", 0) for outcome in outcomes)
    scripted = name in MODELS
    return (
        name,
        len(found),
        _share(found, lambda each: each.in_facts),
        _share(found, lambda each: each.in_summary),
        _share(found, lambda each: each.in_summary or each.retrieved),
        own - fallback if scripted else own,
        fallback if scripted else 0,
        max(outcome.tokens for outcome in outcomes),
    )


def _of(outcomes: Sequence[Outcome], kind: str) -> list[Found]:
    return [each for outcome in outcomes for each in outcome.found if each.planted.kind == kind]


def _share(found: Sequence[Found], holds: Callable[[Found], bool]) -> float:
    return 100 * sum(map(holds, found)) / len(found)


def as_json(outcomes: dict[str, list[Outcome]]) -> list[dict[str, object]]:
    """A row for each fact that was planted."""
    return [
        {
            "summariser": name,
            "kind": found.planted.kind,
            "sentence": found.planted.sentence,
            "in_facts": found.in_facts,
            "in_summary": found.in_summary,
            "retrieved": found.retrieved,
        }
        for name, each in outcomes.items()
        for outcome in each
        for found in outcome.found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.facts", description=bench.facts.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=600, help="turns of each conversation")
    parser.add_argument("--seeds", type=int, default=3, help="conversations of each summariser")
    parser.add_argument("--only", action="append", choices=(*MODELS, *SAID), help="summariser; all where absent")
    parser.add_argument("--json", type=Path, help="file to write a row for each planted fact to")
    arguments = parser.parse_args()
    # Refusals are what is measured here; a line for each would bury the tables.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    outcomes = asyncio.run(run(arguments.turns, arguments.seeds, arguments.only or (*MODELS, *SAID)))
    show(outcomes)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_json(outcomes), indent=1))


if __name__ == "__main__":
    main()
