"""Holds what was stored and told against what was said and served."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench.crash.history import Acceptance, Booked, Ending, History, Reading, Sent, Served, Stored, Tokens, Told

# What a reply may fail with when its provider or its network does.
NAMED_FAILURES = frozenset({"MODEL_UNAVAILABLE", "TURN_TIMED_OUT"})
NOTHING = Tokens(0, 0)
# The provider begins each answer with its own number, by which a stored text is traced to it.
SERVED_NUMBER = re.compile(r"#(\d+) ")


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"
    DOUBLED = "doubled"
    OUT_OF_ORDER = "out of order"
    GAP = "gap"
    UNEQUAL = "unequal"
    UNFINISHED = "unfinished"
    TEXT = "text"
    USAGE = "usage"
    UNEXPECTED = "unexpected answer"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept.

    Attributes:
        subject: Key of a message, or id of a reply or conversation.
    """

    kind: Kind
    subject: str
    sentence: str


def check(history: History) -> list[Violation]:
    """All that is wrong; empty where every promise was kept."""
    return [
        *_messages(history),
        *_conversations(history),
        *_readings(history),
        *_replies(history),
        *_ledger(history),
        *(Violation(Kind.UNEXPECTED, "", sentence) for sentence in history.unexpected),
    ]


def _messages(history: History) -> Iterator[Violation]:
    """Each accepted message is stored once, as it was sent and as its acceptance says."""
    stored: defaultdict[tuple[str, str], list[Stored]] = defaultdict(list)
    for row in history.stored:
        if row.role == "user":
            stored[row.conversation_id, row.key].append(row)
    for sent in history.sent:
        rows = stored.pop((sent.conversation_id, sent.key), [])
        if len(rows) > 1:
            yield Violation(Kind.DOUBLED, sent.key, f"It is stored {len(rows)} times.")
        if len(set(sent.accepted)) > 1:
            yield Violation(Kind.DOUBLED, sent.key, f"It was accepted in different ways: {set(sent.accepted)}.")
        if not rows:
            if sent.accepted:
                yield Violation(Kind.LOST, sent.key, f"It was accepted as {sent.accepted[0]} and is not stored.")
            continue
        if rows[0].text != sent.text:
            yield Violation(Kind.TEXT, sent.key, f"{sent.text!r} was sent, {rows[0].text!r} is stored.")
        if sent.accepted:
            yield from _acceptance(sent, sent.accepted[0], rows[0])
        elif sent.refused and sent.tries == 1:
            # Of several tries, one that is late may be accepted after another was refused.
            yield Violation(Kind.DOUBLED, sent.key, f"It was refused ({sent.refused}) and is stored.")
    for conversation_id, key in stored:
        yield Violation(Kind.DOUBLED, key, f"Nobody sent it to conversation {conversation_id}.")


def _acceptance(sent: Sent, accepted: Acceptance, row: Stored) -> Iterator[Violation]:
    if (accepted.message_id, accepted.sequence) != (row.id, row.sequence):
        yield Violation(Kind.LOST, sent.key, f"It was accepted as {accepted}, but is stored as {row}.")


def _conversations(history: History) -> Iterator[Violation]:
    """Sequences run from 1 without gaps, in the order of sending, and each message is followed by its one reply."""
    rows: defaultdict[str, list[Stored]] = defaultdict(list)
    for row in history.stored:
        rows[row.conversation_id].append(row)
    numbers = {(sent.conversation_id, sent.key): sent.number for sent in history.sent if sent.accepted}
    replies = {sent.accepted[0].message_id: sent.accepted[0] for sent in history.sent if sent.accepted}
    for conversation_id, messages in rows.items():
        messages.sort(key=lambda row: row.sequence)
        if [row.sequence for row in messages] != list(range(1, len(messages) + 1)):
            yield Violation(Kind.GAP, conversation_id, f"The sequences are {[row.sequence for row in messages]}.")
        order = [
            numbers[row.conversation_id, row.key]
            for row in messages
            if row.role == "user" and (row.conversation_id, row.key) in numbers
        ]
        if order != sorted(order):
            yield Violation(Kind.OUT_OF_ORDER, conversation_id, f"The messages are stored in the order {order}.")
        answers: defaultdict[str, list[Stored]] = defaultdict(list)
        for row in messages:
            if row.role != "user":
                answers[row.parent_id].append(row)
        for row in messages:
            if row.role != "user":
                continue
            found = answers.pop(row.id, [])
            if len(found) != 1:
                kind = Kind.DOUBLED if found else Kind.LOST
                yield Violation(kind, row.key, f"It has {len(found)} replies.")
                continue
            accepted = replies.get(row.id)
            if accepted and (accepted.reply_id, accepted.reply_sequence) != (found[0].id, found[0].sequence):
                yield Violation(Kind.LOST, row.key, f"{accepted} promised another reply than {found[0].id}.")
        for parent_id in answers:
            yield Violation(Kind.DOUBLED, conversation_id, f"A reply answers {parent_id}, which is not there.")


def _readings(history: History) -> Iterator[Violation]:
    """No reader meets a gap, and all are told the same."""
    told: dict[tuple[str, int, int], tuple[bytes, Reading]] = {}
    for reading in history.readings:
        attempt, sequence = reading.after
        for event in reading.events:
            expected = sequence + 1 if event.attempt == attempt else 1
            if event.attempt < attempt or event.sequence != expected:
                yield Violation(
                    Kind.GAP,
                    reading.reply_id,
                    f"At {reading.door}, {event.kind} {(event.attempt, event.sequence)} follows {(attempt, sequence)}.",
                )
            elif (event.kind == "restarted") != (event.sequence == 1 and event.attempt > 1):
                yield Violation(
                    Kind.GAP, reading.reply_id, f"{event.kind} has the place {(event.attempt, event.sequence)}."
                )
            attempt, sequence = event.attempt, event.sequence
            name = (reading.reply_id, attempt, sequence)
            digest, first = told.setdefault(name, (event.digest, reading))
            if digest != event.digest:
                yield Violation(
                    Kind.UNEQUAL, reading.reply_id, f"{reading.door} and {first.door} tell {name[1:]} differently."
                )


def _replies(history: History) -> Iterator[Violation]:
    """Each reply has one end, which is stored, and whose text is that of its deltas and of what was served."""
    events: defaultdict[str, dict[tuple[int, int], Told]] = defaultdict(dict)
    for reading in history.readings:
        events[reading.reply_id].update({(event.attempt, event.sequence): event for event in reading.events})
    keys = {row.id: row.key for row in history.stored if row.role == "user"}
    served = {each.number: each for each in history.served}
    known = set()
    for row in history.stored:
        if row.ending is None:
            continue
        known.add(row.id)
        if row.ending.state not in ("complete", "cancelled", "failed"):
            yield Violation(Kind.UNFINISHED, row.id, f"Its state is {row.ending.state}.")
            continue
        if row.ending.state == "failed" and row.ending.error_reason not in NAMED_FAILURES:
            yield Violation(Kind.UNEXPECTED, row.id, f"It failed with {row.ending.error_reason}.")
        yield from _told(row.id, row.ending, events.get(row.id, {}))
        yield from _usage(row.id, row.ending, keys.get(row.parent_id, ""), served)
    for reply_id in events.keys() - known:
        yield Violation(Kind.LOST, reply_id, "It was told, and is not stored.")


def _told(reply_id: str, stored: Ending, events: dict[tuple[int, int], Told]) -> Iterator[Violation]:
    attempts = {attempt for attempt, _ in events}
    if attempts and max(attempts) > stored.attempt:
        yield Violation(
            Kind.DOUBLED, reply_id, f"Attempt {stored.attempt} is stored, attempt {max(attempts)} was told."
        )
    ends = [event for event in events.values() if event.ending is not None]
    if len(ends) > 1:
        yield Violation(Kind.DOUBLED, reply_id, f"It ended {len(ends)} times: {_names(ends)}.")
    for end in ends:
        if end.ending != stored:
            yield Violation(Kind.LOST, reply_id, f"{end.ending} was told, {stored} is stored.")
        missing = [number for number in range(1, end.sequence + 1) if (end.attempt, number) not in events]
        beyond = [number for attempt, number in events if attempt == end.attempt and number > end.sequence]
        if missing or beyond:
            yield Violation(Kind.GAP, reply_id, f"Of attempt {end.attempt}, {missing} is missing, {beyond} beyond.")
            continue
        text = "".join(events[end.attempt, number].text for number in range(1, end.sequence + 1))
        if text != stored.text:
            yield Violation(Kind.TEXT, reply_id, f"{text!r} was told, {stored.text!r} is stored.")


def _names(events: Iterable[Told]) -> str:
    return ", ".join(f"({event.attempt}, {event.sequence})" for event in events)


def _usage(reply_id: str, stored: Ending, key: str, served: dict[int, Served]) -> Iterator[Violation]:
    """A text is what the provider wrote for this message, and the usage what it counted, if it came to that."""
    number = SERVED_NUMBER.match(stored.text)
    answer = served.get(int(number[1])) if number else None
    if answer is None:
        if stored.text or stored.state == "complete":
            yield Violation(Kind.TEXT, reply_id, f"No answer of the provider begins like {stored.text[:50]!r}.")
        elif not stored.usage.estimated and stored.usage != NOTHING:
            yield Violation(Kind.USAGE, reply_id, f"Nothing was served, and {stored.usage} is stored.")
        return
    whole = stored.state == "complete"
    if answer.key != key or not answer.written.startswith(stored.text):
        yield Violation(Kind.TEXT, reply_id, f"{stored.text!r} answers {key}, {answer} was served.")
    elif whole and stored.text != answer.written:
        yield Violation(Kind.TEXT, reply_id, f"{stored.text!r} is only a part of {answer}.")
    if not stored.usage.estimated:
        if not answer.whole or stored.usage != answer.usage:
            yield Violation(Kind.USAGE, reply_id, f"{stored.usage} is stored, {answer} was served.")
    elif whole and answer.whole and not answer.disturbed:
        yield Violation(Kind.USAGE, reply_id, f"An estimate is stored, though {answer} was served.")
    elif stored.text and not stored.usage.completion:
        yield Violation(Kind.USAGE, reply_id, f"The estimate {stored.usage} leaves the text out.")


def _ledger(history: History) -> Iterator[Violation]:
    """Each attempt is booked: one whose process was killed with its reservation, the last one as its reply says."""
    booked: defaultdict[str, dict[int, Booked]] = defaultdict(dict)
    for each in history.booked:
        if each.attempt in booked[each.reply_id]:
            yield Violation(Kind.USAGE, each.reply_id, f"Attempt {each.attempt} is booked twice.")
        booked[each.reply_id][each.attempt] = each
    killed = {(orphan.reply_id, orphan.attempt) for orphan in history.orphans}
    for row in history.stored:
        if row.ending is None or row.ending.state == "pending":
            continue
        entries = booked.pop(row.id, {})
        last = row.ending.attempt
        if sorted(entries) != list(range(1, last + 1)):
            yield Violation(Kind.USAGE, row.id, f"Of {last} attempts, {sorted(entries)} are booked.")
            continue
        # Whoever ends a reply with what another left behind uses nothing itself, and the reply bears what the last one
        # did that used anything.
        used = [attempt for attempt in entries if entries[attempt].usage != NOTHING]
        bearer = max(used, default=last)
        if row.ending.usage not in (entries[last].usage, entries[bearer].usage):
            yield Violation(Kind.USAGE, row.id, f"{row.ending.usage} is stored, {entries[last]} is booked.")
        for entry in entries.values():
            reserved = entry.usage.estimated and entry.usage.prompt + entry.usage.completion == entry.reserved > 0
            if entry.attempt < last and (row.id, entry.attempt) in killed and not reserved:
                yield Violation(Kind.USAGE, row.id, f"Its process was killed, and {entry} is booked.")
    for reply_id in booked:
        yield Violation(Kind.USAGE, reply_id, "It is booked, and is not a finished reply.")
    for user_id, entries_sum, hours_sum in history.sums:
        yield Violation(Kind.USAGE, user_id, f"{entries_sum} tokens are booked, {hours_sum} in the sums by the hour.")


def by_kind(violations: Iterable[Violation]) -> dict[Kind, int]:
    """How many there are of each kind, all kinds included."""
    counts = dict.fromkeys(Kind, 0)
    for violation in violations:
        counts[violation.kind] += 1
    return counts
