"""The checker of bench/crash finds what is wrong, and nothing where all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.crash.checker import Kind, check
from bench.crash.history import Acceptance, Booked, Ending, History, Orphan, Reading, Sent, Served, Stored, Tokens, Told

USAGE = Tokens(11, 3)


def told(attempt: int, *kinds: str, ending: Ending | None = None, start: int = 1) -> list[Told]:
    """Events of an attempt; a kind that is none of the contract's is a delta of that text."""
    events = []
    for number, kind in enumerate(kinds, start=start):
        plain = kind in ("context_report", "restarted", "completed", "failed")
        last = ending if kind in ("completed", "failed") else None
        digest = f"{attempt} {number} {kind}".encode()
        events.append(Told(attempt, number, kind if plain else "delta", digest, "" if plain else kind, last))
    return events


def clean() -> History:
    """Two turns of one conversation: the first reply is complete, the second one's first process was killed."""
    history = History()
    for number in (1, 2):
        key, message, reply = f"key-{number}", f"message-{number}", f"reply-{number}"
        accepted = Acceptance(message, 2 * number - 1, reply, 2 * number)
        history.sent.append(Sent("talk", number, key, f"Hi [{key}]", [accepted, accepted], tries=2))
        before = f"reply-{number - 1}" if number > 1 else ""
        history.stored.append(Stored(message, "talk", before, 2 * number - 1, "user", key, f"Hi [{key}]", None))
    whole = Ending(1, "complete", "stop", "", "#1 one two ", USAGE)
    again = Ending(2, "complete", "stop", "", "#3 new ", USAGE)
    history.stored.append(Stored("reply-1", "talk", "message-1", 2, "assistant", "", whole.text, whole))
    history.stored.append(Stored("reply-2", "talk", "message-2", 4, "assistant", "", again.text, again))
    history.served += [
        Served(1, "key-1", "#1 one two ", USAGE, True, "", False),
        Served(2, "key-2", "#2 lost ", Tokens(9, 9), False, "", False),
        Served(3, "key-2", "#3 new ", USAGE, True, "", False),
    ]
    first = told(1, "context_report", "#1 one ", "two ", "completed", ending=whole)
    died = told(1, "context_report", "#2 lost ")
    second = told(2, "restarted", "context_report", "#3 new ", "completed", ending=again)
    history.booked += [
        Booked("reply-1", 1, USAGE, 100),
        Booked("reply-2", 1, Tokens(60, 40, estimated=True), 100),
        Booked("reply-2", 2, USAGE, 100),
    ]
    history.orphans.append(Orphan("reply-2", 1, 0.0))
    history.readings += [
        Reading("reply-1", "session", (0, 0), list(first)),
        Reading("reply-1", "edge", (1, 2), first[2:]),
        Reading("reply-2", "first", (0, 0), died + second),
        Reading("reply-2", "second", (1, 1), list(second)),
    ]
    return history


def row(history: History, message_id: str) -> int:
    return next(place for place, each in enumerate(history.stored) if each.id == message_id)


def lost_message(history: History) -> None:
    del history.stored[row(history, "message-2")]


def never_stored_turn(history: History) -> None:
    history.stored = [each for each in history.stored if each.id not in ("message-2", "reply-2")]


def doubled_message(history: History) -> None:
    again = replace(history.stored[0], id="message-9", sequence=5)
    history.stored += [again, replace(history.stored[row(history, "reply-1")], id="reply-9", parent_id="message-9")]


def second_reply(history: History) -> None:
    history.stored.append(replace(history.stored[row(history, "reply-2")], id="reply-9", sequence=5))


def accepted_twice(history: History) -> None:
    history.sent[0].accepted[1] = Acceptance("message-9", 9, "reply-9", 10)


def refused_and_stored(history: History) -> None:
    history.sent[1].accepted.clear()
    history.sent[1].tries, history.sent[1].refused = 1, "CONVERSATION_BUSY"


def wrong_order(history: History) -> None:
    history.sent[0].number, history.sent[1].number = 2, 1


def sequence_gap(history: History) -> None:
    place = row(history, "reply-2")
    history.stored[place] = replace(history.stored[place], sequence=5)


def gap_in_a_reading(history: History) -> None:
    del history.readings[2].events[0]


def doubled_event(history: History) -> None:
    history.readings[0].events.insert(1, history.readings[0].events[1])


def earlier_attempt_told_later(history: History) -> None:
    history.readings[2].events = history.readings[2].events[2:] + history.readings[2].events[:2]


def unannounced_attempt(history: History) -> None:
    history.readings[3].events[0] = replace(history.readings[3].events[0], kind="context_report")


def unequal_readers(history: History) -> None:
    events = history.readings[1].events
    events[0] = replace(events[0], digest=b"other")


def unequal_text(history: History) -> None:
    place = row(history, "reply-1")
    stored = history.stored[place]
    assert stored.ending is not None
    history.stored[place] = replace(stored, ending=replace(stored.ending, text="#1 one "))


def two_attempts_that_end(history: History) -> None:
    ending = Ending(1, "complete", "stop", "", "#2 lost ", USAGE)
    history.readings.append(
        Reading("reply-2", "edge", (0, 0), told(1, "context_report", "#2 lost ", "completed", ending=ending))
    )


def told_beyond_what_is_stored(history: History) -> None:
    history.readings.append(Reading("reply-1", "edge", (0, 0), told(2, "restarted")))


def unfinished(history: History) -> None:
    place = row(history, "reply-2")
    stored = history.stored[place]
    assert stored.ending is not None
    history.stored[place] = replace(stored, ending=replace(stored.ending, state="pending"))


def with_ending(history: History, reply_id: str, **changes: object) -> None:
    """Change how a reply ended, for those who were told as well as in the database."""
    place = row(history, reply_id)
    ending = history.stored[place].ending
    assert ending is not None
    changed = replace(ending, **changes)
    history.stored[place] = replace(history.stored[place], ending=changed, text=changed.text)
    for reading in history.readings:
        reading.events = [replace(event, ending=event.ending and changed) for event in reading.events]


def wrong_usage(history: History) -> None:
    with_ending(history, "reply-1", usage=Tokens(11, 4))


def estimate_of_what_was_served(history: History) -> None:
    with_ending(history, "reply-1", usage=Tokens(11, 3, estimated=True))


def exact_usage_of_what_was_cut(history: History) -> None:
    history.served[0] = replace(history.served[0], whole=False)


def attempt_that_is_not_booked(history: History) -> None:
    del history.booked[1]


def attempt_that_is_booked_twice(history: History) -> None:
    history.booked.append(history.booked[0])


def killed_attempt_that_costs_nothing(history: History) -> None:
    history.booked[1] = replace(history.booked[1], usage=Tokens(0, 0, estimated=True))


def killed_attempt_that_is_no_estimate(history: History) -> None:
    history.booked[1] = replace(history.booked[1], usage=Tokens(60, 40))


def other_booking_than_the_replys(history: History) -> None:
    history.booked[2] = replace(history.booked[2], usage=Tokens(11, 4))


def wrong_sum(history: History) -> None:
    history.sums.append(("user", 14, 15))


def anothers_answer(history: History) -> None:
    history.served[0] = replace(history.served[0], key="key-2")


def unnamed_failure(history: History) -> None:
    with_ending(history, "reply-1", state="failed", error_reason="INTERNAL", usage=Tokens(1, 3, estimated=True))


def unexpected_answer(history: History) -> None:
    history.unexpected.append("INTERNAL")


def test_a_history_without_fault_passes() -> None:
    assert check(clean()) == []


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lost_message, Kind.LOST),
        (never_stored_turn, Kind.LOST),
        (doubled_message, Kind.DOUBLED),
        (second_reply, Kind.DOUBLED),
        (accepted_twice, Kind.DOUBLED),
        (refused_and_stored, Kind.DOUBLED),
        (wrong_order, Kind.OUT_OF_ORDER),
        (sequence_gap, Kind.GAP),
        (gap_in_a_reading, Kind.GAP),
        (doubled_event, Kind.GAP),
        (earlier_attempt_told_later, Kind.GAP),
        (unannounced_attempt, Kind.GAP),
        (unequal_readers, Kind.UNEQUAL),
        (unequal_text, Kind.TEXT),
        (two_attempts_that_end, Kind.DOUBLED),
        (told_beyond_what_is_stored, Kind.DOUBLED),
        (unfinished, Kind.UNFINISHED),
        (wrong_usage, Kind.USAGE),
        (estimate_of_what_was_served, Kind.USAGE),
        (exact_usage_of_what_was_cut, Kind.USAGE),
        (attempt_that_is_not_booked, Kind.USAGE),
        (attempt_that_is_booked_twice, Kind.USAGE),
        (killed_attempt_that_costs_nothing, Kind.USAGE),
        (killed_attempt_that_is_no_estimate, Kind.USAGE),
        (other_booking_than_the_replys, Kind.USAGE),
        (wrong_sum, Kind.USAGE),
        (anothers_answer, Kind.TEXT),
        (unnamed_failure, Kind.UNEXPECTED),
        (unexpected_answer, Kind.UNEXPECTED),
    ],
)
def test_a_planted_violation_is_found(plant: Callable[[History], None], kind: Kind) -> None:
    history = clean()
    plant(history)
    assert kind in {violation.kind for violation in check(history)}


def test_an_interrupted_reply_keeps_a_prefix_of_what_was_served_and_an_estimate() -> None:
    history = clean()
    ending = Ending(2, "cancelled", "interrupted", "", "#2 lo", history.booked[1].usage)
    history.booked[2] = replace(history.booked[2], usage=Tokens(0, 0))
    place = row(history, "reply-2")
    history.stored[place] = replace(history.stored[place], ending=ending, text=ending.text)
    end = told(2, "restarted", "#2 lo", "completed", ending=ending)
    history.readings[2:] = [Reading("reply-2", "first", (0, 0), told(1, "context_report", "#2 lost ") + end)]
    assert check(history) == []
    ending = replace(ending, text="#2 other")
    history.stored[place] = replace(history.stored[place], ending=ending, text=ending.text)
    history.readings[2].events = told(2, "restarted", "#2 other", "completed", ending=ending)
    assert {violation.kind for violation in check(history)} == {Kind.TEXT}
