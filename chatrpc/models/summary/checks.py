"""What a language model's summary must not do. Each check says in a sentence what is wrong, or passes in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatrpc.domain import Fact, Message
from chatrpc.errors import SummaryRefused
from chatrpc.models.summary.facts import normal_key
from chatrpc.models.words import share, words
from chatrpc.ports import FactChange, Retract, Upsert
from chatrpc.tokens import estimate_tokens

# A story that shrinks to less than this, or keeps fewer of its different words, has lost what came before. Stories of
# fewer such words are left alone: that little is soon said in others.
_SHRUNK, _FORGOTTEN, _FEW_WORDS = 0.35, 0.15, 30
# Retracted and rewritten facts of one batch; people do not take back more at once.
_MOST_DESTROYED, _MOST_DESTROYED_SHARE = 3, 0.34
# Facts that are new or say something new may cost so much for each token of the messages, and so much besides.
_FACTS_PER_TOKEN, _FACTS_BESIDES = 2, 64
_GROUNDED = 0.25
"""Share of a new fact's words that must have been said."""
_INVENTED = 0.5
"""Share of the new facts that, where nothing of them was said, makes the whole answer worthless."""

_NESTED = re.compile(
    r"summary of (?:the|a|an|my|this|that|our)?\s*(?:\w+\s+)?(?:summary|summaries|story)\b"
    r"|\b(?:old|earlier|previous|last|above)\s+(?:summary|story)\b"
    r"|<\s*/?\s*(?:facts|story|messages)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^\W*(?:(?:i'?m|i am)\s+(?:very\s+)?(?:sorry|unable|afraid|not able)|sorry\b|as an ai\b"
    r"|as a (?:large )?language model|i\s+(?:can(?:'|\u2019)?t|cannot|can not|won't|will not)\s+"
    r"(?:help|assist|comply|do|provide|summari[sz]e|continue))",
    re.IGNORECASE,
)


def check_narrative(old: str, new: str, max_tokens: int) -> None:
    """Raises SummaryRefused where a story is empty, too long, a refusal, nested, or without what came before."""
    if not new:
        raise SummaryRefused("The model's story is empty.")
    tokens = estimate_tokens(new)
    if tokens > max_tokens:
        raise SummaryRefused(f"The model's story may take {tokens} tokens, more than the {max_tokens} allowed.")
    if _REFUSAL.search(new):
        raise SummaryRefused("The model refused to write a summary.")
    if _NESTED.search(new):
        raise SummaryRefused("The model's story speaks of a summary inside itself.")
    told_before = words(old)
    if len(told_before) < _FEW_WORDS:
        return
    before = estimate_tokens(old)
    if tokens < before * _SHRUNK:
        raise SummaryRefused(f"The model's story shrank from {before} tokens to {tokens}.")
    kept = share(told_before, words(new))
    if kept < _FORGOTTEN:
        raise SummaryRefused(f"The model's story holds {kept:.0%} of the words of the one before.")


def checked_changes(
    facts: Sequence[Fact], changes: Sequence[FactChange], narrative: str, messages: Sequence[Message]
) -> tuple[FactChange, ...]:
    """The changes that messages of the batch bear out, the others left out.

    Raises:
        SummaryRefused: There are more than the messages can have brought, or most are invented.
    """
    known = {fact.key: fact for fact in facts}
    texts = {fact.text.casefold() for fact in facts}
    said = words(" ".join(message.text for message in messages))
    told = said | words(narrative) | words(" ".join(fact.text for fact in facts))
    sequences = {message.sequence for message in messages}
    borne_out: list[FactChange] = []
    destroyed, invented, price = 0, 0, 0
    for change in changes:
        old = known.get(normal_key(change.key))
        if isinstance(change, Retract):
            # Whoever takes a fact back must say which message does so.
            if old is not None and change.sequence in sequences:
                destroyed += 1
                borne_out.append(change)
            continue
        if change.text.casefold() in texts:
            continue
        price += estimate_tokens(change.text)
        about = words(change.text)
        if about and (share(about, told) < _GROUNDED or not about & (said if old is None else told)):
            invented += 1
            continue
        if old is not None and share(words(old.text), about) < 0.2:
            destroyed += 1
        borne_out.append(change)
    upserts = sum(isinstance(each, Upsert) for each in borne_out) + invented
    if price > _FACTS_PER_TOKEN * sum(message.tokens for message in messages) + _FACTS_BESIDES:
        raise SummaryRefused(f"The model's facts may take {price} tokens, more than the messages can have brought.")
    if invented > max(1, _INVENTED * upserts):
        raise SummaryRefused(f"Of the model's {upserts} facts, {invented} hold nothing that was said.")
    if destroyed > max(_MOST_DESTROYED, _MOST_DESTROYED_SHARE * len(facts)):
        raise SummaryRefused(f"The model took back {destroyed} of {len(facts)} facts at once.")
    return tuple(borne_out)
