"""The language model's provider: what it answers to each message, where it fails, and what it has served."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.crash.history import Served, Tokens
from tests.support.answers import Answer, Fault, default_answer
from tests.support.provider import Provider, Request
from tests.support.summarizing import follow

# A message ends with its key, so that a request can be told by its last one.
KEY = re.compile(r"\[([\w-]+)\]\s*$")
WORDS = ("moss", "lantern", "river", "copper", "slowly", "under", "seven", "the", "harbour", "answers", "and", "rain")
RATE = 40.0

_STATUSES = {"429": 429, "500": 500, "503": 503}
FAULTS = (
    *_STATUSES,
    *(each.name for each in (Fault.HANG, Fault.STALL, Fault.CUT, Fault.END_EARLY)),
    *(each.name for each in (Fault.MALFORMED_JSON, Fault.MALFORMED_SHAPE, Fault.ERROR_EVENT)),
)


@dataclass(slots=True)
class _Record:
    number: int
    key: str
    answer: Answer
    request: Request
    fault: str
    disturbed: bool = False


class Script:
    """Answers for `Provider`, drawn from a seed.

    Args:
        faults: How many there are to be in `turns` messages; each goes wrong at its first request.
    """

    def __init__(self, provider: Provider, seed: int, turns: int, faults: int) -> None:
        self.faults: Counter[str] = Counter()
        self._provider = provider
        self._random = Random(f"provider {seed}")
        # A little more, since some messages are stopped before their first request.
        self._share = 1.1 * faults / turns
        self._wanted = faults
        self._due = 0.0
        self._seen: set[str] = set()
        self._records: list[_Record] = []
        provider.answer = self._answer

    def disturb(self) -> None:
        """The network is at fault now: what is under way may not arrive."""
        for record in self._records[-500:]:
            if not _over(record.request):
                record.disturbed = True

    def served(self) -> list[Served]:
        """What was served so far."""
        return [
            Served(
                record.number,
                record.key,
                "".join(record.answer.deltas[: record.request.sent]),
                _tokens(record.answer),
                record.request.done,
                record.fault,
                record.disturbed,
            )
            for record in self._records
        ]

    def _answer(self, body: dict[str, Any]) -> Answer:
        last = body["messages"][-1]["content"]
        key = KEY.search(last)
        if follow(last) is not None or key is None:
            self._provider.requests.clear()
            return default_answer(body)
        # The request came in an instant ago.
        request = next(each for each in reversed(self._provider.requests) if each.body is body)
        # A run is long, and the prompts are not needed.
        self._provider.requests.clear()
        number = len(self._records) + 1
        fault = self._fault(key[1])
        answer = self._draw(number, fault, sum(len(each["content"].split()) for each in body["messages"]))
        self._records.append(_Record(number, key[1], answer, request, fault))
        return answer

    def _fault(self, key: str) -> str:
        if key in self._seen:
            return ""
        self._seen.add(key)
        self._due += self._share
        if sum(self.faults.values()) >= self._wanted or self._random.random() >= self._due:
            return ""
        self._due -= 1
        fault = self._random.choice(FAULTS)
        self.faults[fault] += 1
        return fault

    def _draw(self, number: int, fault: str, prompt_tokens: int) -> Answer:
        if fault in _STATUSES:
            headers = {"retry-after": "0.3"} if fault == "429" else {}
            return Answer(status=_STATUSES[fault], headers=headers)
        kind = self._random.random()
        length, rate = (
            (self._random.randint(2, 8), None)
            if kind < 0.6
            else (self._random.randint(20, 60), RATE)
            if kind < 0.9
            else (self._random.randint(100, 200), RATE)
        )
        deltas = (f"#{number} ", *(f"{self._random.choice(WORDS)} " for _ in range(length)))
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(deltas)}
        usage["total_tokens"] = sum(usage.values())
        return Answer(deltas=deltas, usage=usage, rate=rate, fault=Fault[fault] if fault else None)


def _over(request: Request) -> bool:
    return request.done or request.closed.is_set()


def _tokens(answer: Answer) -> Tokens:
    usage = answer.usage or {}
    return Tokens(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
