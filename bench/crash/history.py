"""What a run leaves behind for the checker: what was said, told, served and stored."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field

from chatapi.v1.chat_service_pb2 import MessageAccepted, ReplyEvent
from chatapi.v1.message_pb2 import FinishReason, Message, MessageState

from chatrpc.client import CallError


@dataclass(frozen=True, slots=True)
class Tokens:
    """A reply's usage."""

    prompt: int
    completion: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """The reply as a last event tells it, or as it is stored; names as in `chatrpc.domain`."""

    attempt: int
    state: str
    finish_reason: str
    error_reason: str
    text: str
    usage: Tokens


@dataclass(frozen=True, slots=True)
class Told:
    """An event as somebody was told it.

    Attributes:
        digest: Of the whole event, byte for byte.
        text: Of a delta.
        ending: Of a last event.
    """

    attempt: int
    sequence: int
    kind: str
    digest: bytes
    text: str = ""
    ending: Ending | None = None


@dataclass(slots=True)
class Reading:
    """What one reader was told of one reply, from one place on.

    Attributes:
        after: Attempt and sequence that it asked to go on after; (0, 0) for all.
    """

    reply_id: str
    door: str
    after: tuple[int, int]
    events: list[Told] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int]:
        return (self.events[-1].attempt, self.events[-1].sequence) if self.events else self.after

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].ending is not None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the server said of a message."""

    message_id: str
    sequence: int
    reply_id: str
    reply_sequence: int


@dataclass(slots=True)
class Sent:
    """A message of a client.

    Attributes:
        number: Its place among those that the client sent to the conversation, each after the one before was accepted.
        accepted: One for each answer that said so.
        tries: How often it was sent.
        refused: Reason with which it was refused for good.
    """

    conversation_id: str
    number: int
    key: str
    text: str
    accepted: list[Acceptance] = field(default_factory=list)
    tries: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """A request that the provider got, and what it answered.

    Attributes:
        key: The message that it was to answer.
        written: The text that was written to the connection.
        whole: Whether that was all, the usage included.
        disturbed: Whether the network was at fault meanwhile, so that what was written may not have arrived.
    """

    number: int
    key: str
    written: str
    usage: Tokens
    whole: bool
    fault: str
    disturbed: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in the database. `ending` is that of a reply, `key` and `text` those of a user's message."""

    id: str
    conversation_id: str
    parent_id: str
    sequence: int
    role: str
    key: str
    text: str
    ending: Ending | None


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger says that one attempt at a reply has used, and how many tokens had been reserved."""

    reply_id: str
    attempt: int
    usage: Tokens
    reserved: int


@dataclass(frozen=True, slots=True)
class Orphan:
    """A reply whose process was killed at a moment (monotonic seconds), and its attempt then."""

    reply_id: str
    attempt: int
    killed: float


@dataclass
class History:
    """Grows while the clients are at work.

    Attributes:
        first_told: When each attempt of a reply was first heard of, by (reply, attempt), in monotonic seconds.
        troubles: What clients were answered other than what they wanted, by code and reason.
        unexpected: Answers that no fault explains, for people.
        sums: Of users whose sums by the hour are not those of their bookings, both in tokens.
        finished, refused: How many messages have come to their end, and how many of them were not accepted.
        outages: When something was away that a takeover needs, as (what, from, until).
    """

    sent: list[Sent] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    booked: list[Booked] = field(default_factory=list)
    sums: list[tuple[str, int, int]] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    first_told: dict[tuple[str, int], float] = field(default_factory=dict)
    troubles: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    outages: list[tuple[str, float, float]] = field(default_factory=list)
    finished: int = 0
    refused: int = 0
    _known: dict[tuple[str, int, int, bytes], Told] = field(default_factory=dict)

    def read(self, reply_id: str, door: str, after: tuple[int, int] = (0, 0)) -> Reading:
        reading = Reading(reply_id, door, after)
        self.readings.append(reading)
        return reading

    def tell(self, reading: Reading, event: ReplyEvent) -> Told:
        """Note an event, as one object for all who are told the same."""
        digest = hashlib.blake2b(event.SerializeToString(deterministic=True), digest_size=12).digest()
        name = (event.reply_id, event.attempt, event.sequence, digest)
        told = self._known.get(name)
        if told is None:
            told = self._known[name] = _told(event, digest)
        self.first_told.setdefault((event.reply_id, event.attempt), time.monotonic())
        reading.events.append(told)
        return told

    def refuse(self, sent: Sent, error: CallError) -> None:
        """Note a refusal that is final."""
        self.refused += 1
        sent.refused = error.reason or error.code.name

    def trouble(self, error: CallError) -> None:
        self.troubles[f"{error.code.name} {error.reason}".strip()] += 1


def accepted(answer: MessageAccepted) -> Acceptance:
    return Acceptance(answer.message.id, answer.message.sequence, answer.reply_id, answer.reply_sequence)


def _told(event: ReplyEvent, digest: bytes) -> Told:
    kind = event.WhichOneof("event") or "unknown"
    ending = None
    if kind in ("completed", "failed"):
        ending = _ending(event.completed.message if kind == "completed" else event.failed.message, event.attempt)
    return Told(event.attempt, event.sequence, kind, digest, event.delta.text, ending)


def _ending(message: Message, attempt: int) -> Ending:
    usage = message.usage
    return Ending(
        attempt,
        MessageState.Name(message.state).removeprefix("MESSAGE_STATE_").lower(),
        FinishReason.Name(message.finish_reason).removeprefix("FINISH_REASON_").lower(),
        message.error_reason,
        "".join(part.text.text for part in message.parts),
        Tokens(usage.prompt_tokens, usage.completion_tokens, usage.estimated),
    )
