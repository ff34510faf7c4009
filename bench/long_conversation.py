"""A conversation of 2,000 messages: `uv run python -m bench.long_conversation [--messages N] [--pause SECONDS]`.

It starts what `chatrpc dev` starts, in a temporary directory, and says 1,000 messages through Envoy on one `Chat`
stream, each as soon as the reply before it is there or a pause later; the offline model replies. Of every turn it
checks the promise that nothing is skipped, by the context report: with a summary of the messages 1 to s, the context
held the messages s + 1 to n verbatim, each once, n being the message to answer and n - s at least K; what the token
budget left out was the oldest of these, and was reported; nothing that was retrieved also stood verbatim.

It prints what the contexts cost as the conversation grew, and in how many turns the budget left messages out, which
tells that summaries came late. Bars: tokens of a context bounded, the promise kept in every turn.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from chatapi.v1.chat_service_pb2 import MessageAccepted
from chatapi.v1.context_report_pb2 import ContextReport, DropReason
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest

from bench.stack import run_stack
from bench.table import percentile, print_table
from chatrpc.client import connect, text_message
from chatrpc.settings import ContextSettings, load

TOPICS = ("harbour", "marathon", "violin", "bakery", "lighthouse", "parrot", "glacier", "sonata", "walnut", "orchard")
PLACES = ("Porto", "Bergen", "Kyoto", "Tallinn", "Valencia", "Quebec", "Ghent", "Trieste")
# Rows of the table.
STRETCHES = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn's report said.

    Attributes:
        messages: Of the conversation after the turn.
        left_out: Messages after the summary that the budget had no room for.
        faults: What broke the promise; nothing, as it should be.
    """

    messages: int
    tokens: int
    verbatim: int
    summary_tokens: int
    assembly_micros: int
    seconds: float
    left_out: int
    faults: tuple[str, ...]


def faults(
    accepted: MessageAccepted, report: ContextReport, sequences: Mapping[str, int], keep: int
) -> tuple[str, ...]:
    """Whatever breaks the promise; `sequences` of all messages by their ids. A linear conversation is assumed."""
    found: list[str] = []
    covered, newest = report.summary.message_count, accepted.message.sequence
    verbatim = [each.sequence for each in report.verbatim]
    first = verbatim[0]
    if verbatim != list(range(first, newest + 1)):
        found.append(f"verbatim are {verbatim}, with a gap or out of order")
    dropped = {sequences[each.message_id] for each in report.dropped if each.reason == DropReason.DROP_REASON_BUDGET}
    if unexplained := set(range(covered + 1, first)) - dropped:
        found.append(f"neither in the summary (1 to {covered}) nor verbatim nor dropped: {sorted(unexplained)}")
    if first <= covered:
        found.append(f"in the summary (1 to {covered}) and verbatim: from {first}")
    if covered and newest - covered < keep:
        found.append(f"the summary of 1 to {covered} leaves fewer than {keep} up to {newest}")
    if twice := {each.message_id for each in report.verbatim} & {each.message_id for each in report.retrieved}:
        found.append(f"{len(twice)} both verbatim and retrieved")
    return tuple(found)


def sentence(number: int) -> str:
    topic, other = random.sample(TOPICS, 2)
    words = f"Note {number}: in {random.choice(PLACES)} I saw a {topic} beside a {other}. "
    return words * random.choice((1, 1, 2, 4))


async def converse(messages: int, pause: float) -> list[Turn]:
    keep = load(ContextSettings).hot_path
    turns: list[Turn] = []
    sequences: dict[str, int] = {}
    async with run_stack() as stack, connect(stack.endpoint, stack.token) as client, client.chat() as session:
        created = await client.call(client.conversations.CreateConversation, CreateConversationRequest())
        for number in range(1, messages // 2 + 1):
            started = time.monotonic()
            said = await session.send(text_message(created.conversation.id, sentence(number)))
            await said.reply()
            assert said.accepted is not None
            assert said.report is not None
            seconds = time.monotonic() - started
            await asyncio.sleep(pause)
            sequences[said.accepted.message.id] = said.accepted.message.sequence
            sequences[said.accepted.reply_id] = said.accepted.reply_sequence
            turns.append(
                _turn(said.accepted, said.report, seconds, faults(said.accepted, said.report, sequences, keep))
            )
    return turns


def _turn(accepted: MessageAccepted, report: ContextReport, seconds: float, broken: tuple[str, ...]) -> Turn:
    return Turn(
        messages=accepted.reply_sequence,
        tokens=sum(section.tokens for section in report.sections),
        verbatim=len(report.verbatim),
        summary_tokens=report.summary.tokens,
        assembly_micros=report.assembly_time.ToMicroseconds(),
        seconds=seconds,
        left_out=report.verbatim[0].sequence - report.summary.message_count - 1,
        faults=broken,
    )


def show(turns: list[Turn]) -> None:
    rows: list[list[object]] = []
    size = -(-len(turns) // STRETCHES)
    for start in range(0, len(turns), size):
        stretch = turns[start : start + size]
        rows.append(
            [
                f"{stretch[0].messages - 1:,} to {stretch[-1].messages:,}",
                int(percentile((turn.tokens for turn in stretch), 0.5)),
                max(turn.tokens for turn in stretch),
                max(turn.verbatim for turn in stretch),
                max(turn.summary_tokens for turn in stretch),
                max(turn.left_out for turn in stretch),
                int(percentile((turn.assembly_micros for turn in stretch), 0.5)),
                f"{1_000 * percentile((turn.seconds for turn in stretch), 0.5):.0f}",
            ]
        )
    header = [
        "messages",
        "tokens p50",
        "tokens max",
        "verbatim max",
        "summary max",
        "left out",
        "assembly, us",
        "turn, ms",
    ]
    print_table(header, rows)
    print("assembly and turn: medians\n")
    wrong = [turn for turn in turns if turn.faults]
    for turn in wrong[:10]:
        print(f"at message {turn.messages - 1}: {'; '.join(turn.faults)}")
    late = sum(turn.left_out > 0 for turn in turns)
    print(f"{len(turns):,} turns; tokens of a context at most {max(turn.tokens for turn in turns):,}")
    print(f"turns whose budget left messages out, since summaries came late: {late:,}")
    print(f"bar: nothing skipped, nothing doubled: {'met' if not wrong else f'MISSED in {len(wrong)} turns'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between a reply and the next message")
    options = parser.parse_args()
    show(asyncio.run(converse(options.messages, options.pause)))


if __name__ == "__main__":
    main()
