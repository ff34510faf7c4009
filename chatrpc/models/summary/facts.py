"""Durable facts: changed by key, written on one line each, and kept within a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from chatrpc.domain import Fact, FactKind, Message
from chatrpc.models.summary.salience import salience
from chatrpc.models.words import share, words
from chatrpc.ports import FactChange, Retract, Upsert
from chatrpc.tokens import cut_to_tokens, estimate_tokens

LONGEST_FACT = 64
"""Tokens of one fact at most; the rest of a longer one is cut off."""
GUARANTEED_SHARES = {
    FactKind.NAME: 1 / 8,
    FactKind.PREFERENCE: 1 / 4,
    FactKind.DECISION: 1 / 8,
    FactKind.DETAIL: 1 / 4,
    FactKind.OPEN_QUESTION: 1 / 8,
}
"""Part of the room that each kind of fact has, if it needs it."""
# A fact is worth so much less for each token, since in its place several short ones could stand.
_WORTH_PER_TOKEN = 0.03
_LONGEST_KEY = 48
_KEPT_BY_MERGE = 0.8
"""A merge may take a fact's place only with so much of its words."""
_RANKS = {kind: rank for rank, kind in enumerate(FactKind)}
_OPENINGS = {FactKind.OPEN_QUESTION: "Open: "}
_NOT_OF_A_KEY = re.compile(r"[^\w.]+")


def fact_line(fact: Fact) -> str:
    """A fact as a prompt shows it."""
    return f"- {_OPENINGS.get(fact.kind, '')}{fact.text}"


def cost(facts: Iterable[Fact]) -> int:
    """Upper estimate of the facts' lines in a prompt, in tokens."""
    return sum(estimate_tokens(fact_line(fact) + "\n") for fact in facts)


def normal_key(key: str) -> str:
    """The key as facts are compared by it; empty where it names nothing."""
    return _NOT_OF_A_KEY.sub("_", key.casefold().strip()).strip("_.")[:_LONGEST_KEY]


def changed(facts: Sequence[Fact], changes: Iterable[FactChange], messages: Sequence[Message]) -> tuple[Fact, ...]:
    """The facts after the changes that a batch of messages brought; what no change names stays where it is.

    A change that names no message of the batch is put down to the one that it shares most words with.
    """
    known = {fact.key: fact for fact in facts}
    said = {fact.text.casefold() for fact in facts}
    by_sequence = {message.sequence: message for message in messages}
    for change in changes:
        key = normal_key(change.key)
        if isinstance(change, Retract):
            known.pop(key, None)
            continue
        text = _one_line(change.text)
        if not key or not text or text.casefold() in said:
            continue
        said.add(text.casefold())
        source = by_sequence.get(change.sequence or 0) or _likeliest(text, messages)
        old = known.get(key)
        if old is None:
            known[key] = Fact(key, change.kind, text, source.id, source.sequence, source.id, source.sequence)
        else:
            known[key] = replace(
                old, kind=change.kind, text=text, changed_id=source.id, changed_sequence=source.sequence
            )
    return tuple(known.values())


def merged(facts: Sequence[Fact], group: Sequence[Fact], changes: Sequence[FactChange]) -> tuple[Fact, ...]:
    """The facts after a merge of a group of them.

    A fact gives way only where the group's new texts hold nearly all of its words, so that a merge cannot forget; and
    the merge is taken only where it makes the whole shorter.
    """
    texts = {normal_key(each.key): _one_line(each.text) for each in changes if isinstance(each, Upsert)}
    texts = {fact.key: text for fact in group if (text := texts.get(fact.key))}
    gone = {normal_key(each.key) for each in changes if isinstance(each, Retract)}
    while lost := [fact.key for fact in group if fact.key in texts and not _is_kept(fact, texts)]:
        texts = {key: text for key, text in texts.items() if key not in lost}
    newest = max(group, key=lambda fact: fact.changed_sequence)
    gone = {fact.key for fact in group if fact.key in gone - texts.keys() and _is_kept(fact, texts)}
    result = tuple(
        replace(
            fact,
            text=texts[fact.key],
            changed_id=newest.changed_id,
            changed_sequence=newest.changed_sequence,
        )
        if fact.key in texts
        else fact
        for fact in facts
        if fact.key not in gone
    )
    return result if cost(result) < cost(facts) else tuple(facts)


def _is_kept(fact: Fact, texts: dict[str, str]) -> bool:
    return share(words(fact.text), words(" ".join(texts.values()))) >= _KEPT_BY_MERGE


def fit(facts: Sequence[Fact], max_tokens: int) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """The facts that `max_tokens` have room for, and those that must go, both in their order.

    Open questions go first, the oldest of them first; then details, decisions, preferences and names, of each kind
    those that look least worth their tokens, and of equals the newest, so that what was said early does not wear away.
    But each kind has a share of its own, so that a flood of one does not drown another.
    """
    by_worth = sorted(facts, key=_worth)
    left = max_tokens
    kept: set[str] = set()
    guaranteed = {kind: int(max_tokens * share) for kind, share in GUARANTEED_SHARES.items()}
    for fact in by_worth:
        price = cost((fact,))
        if price <= guaranteed[fact.kind]:
            kept.add(fact.key)
            guaranteed[fact.kind] -= price
            left -= price
    for fact in by_worth:
        price = cost((fact,))
        if fact.key not in kept and price <= left:
            kept.add(fact.key)
            left -= price
    return tuple(fact for fact in facts if fact.key in kept), tuple(fact for fact in facts if fact.key not in kept)


def _worth(fact: Fact) -> tuple[int, float, int]:
    """Sorts the best first."""
    if fact.kind is FactKind.OPEN_QUESTION:
        return _RANKS[fact.kind], 0.0, -fact.changed_sequence
    line = fact.text if fact.text.startswith("user: ") else f"user: {fact.text}"
    worth = salience(line) - _WORTH_PER_TOKEN * estimate_tokens(fact.text)
    return _RANKS[fact.kind], -worth, fact.source_sequence


def _one_line(text: str) -> str:
    return cut_to_tokens(" ".join(text.split()), LONGEST_FACT).rstrip()


def _likeliest(text: str, messages: Sequence[Message]) -> Message:
    about = words(text)
    return max(messages, key=lambda message: (len(about & words(message.text)), message.sequence))
