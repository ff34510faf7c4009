"""Reads a language model's answer: the story, and the changes of the facts, one a line.

The form is in `fold.txt` and `merge.txt`. Small models decorate headings and bullets; that is passed over. An answer
without its last line was cut off, whatever the endpoint says of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from chatrpc.domain import FactKind
from chatrpc.errors import SummaryRefused
from chatrpc.ports import FactChange, Folding, Retract, Upsert

_HEADING = re.compile(r"^[\W_]*(STORY|FACTS|END)[\W_]*$", re.IGNORECASE)
_CHANGE = re.compile(r"^[*\u2022\s]*([+\-\u2212\u2013])\s*(\S.*)$")
_NOTHING = re.compile(r"^\W*(?:none|nothing|no changes?|n/a)?\W*$", re.IGNORECASE)
_NUMBER = re.compile(r"^\D{0,12}(\d{1,9})\D{0,3}$")
_MOST_MALFORMED = 2


def parse_fold(text: str) -> Folding:
    """Raises SummaryRefused where the answer has not the form that was asked for."""
    sections = _sections(text, ("STORY", "FACTS", "END"))
    return Folding("\n".join(sections[0]).strip(), _changes(sections[1]))


def parse_merge(text: str) -> tuple[FactChange, ...]:
    """Raises SummaryRefused where the answer has not the form that was asked for."""
    return _changes(_sections(text, ("FACTS", "END"))[0])


def _sections(text: str, names: Sequence[str]) -> list[list[str]]:
    """The lines under each heading but the last, which ends the answer."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("```")]
    headings = [(match[1].upper(), place) for place, line in enumerate(lines) if (match := _HEADING.match(line))]
    found = [name for name, _ in headings]
    if len(set(found)) < len(found):
        raise SummaryRefused("The model's answer holds a heading twice.")
    if found == list(names[:-1]):
        raise SummaryRefused("The model's answer was cut off before its end.")
    if found != list(names):
        raise SummaryRefused("The model's answer has not the form that was asked for.")
    places = [place for _, place in headings]
    return [lines[start + 1 : end] for start, end in pairwise(places)]


def _changes(lines: Sequence[str]) -> tuple[FactChange, ...]:
    changes: list[FactChange] = []
    malformed = 0
    for line in lines:
        if _NOTHING.match(line):
            continue
        change = _change(line)
        if change is None:
            malformed += 1
        else:
            changes.append(change)
    if malformed > max(_MOST_MALFORMED, len(changes)):
        raise SummaryRefused(f"{malformed} lines of the model's facts have not the form that was asked for.")
    return tuple(changes)


def _change(line: str) -> FactChange | None:
    match = _CHANGE.match(line)
    if match is None:
        return None
    key, *fields = (field.strip() for field in match[2].split("|"))
    number = _NUMBER.match(fields[-1]) if len(fields) > 1 else None
    sequence = None if number is None else int(number[1])
    if number is not None:
        fields.pop()
    if match[1] != "+":
        return Retract(key, " ".join(fields), sequence)
    if len(fields) < 2:
        return None
    return Upsert(key, _kind(fields[0]), " | ".join(fields[1:]), sequence)


def _kind(name: str) -> FactKind:
    try:
        return FactKind("_".join(name.casefold().split()))
    except ValueError:
        return FactKind.DETAIL
