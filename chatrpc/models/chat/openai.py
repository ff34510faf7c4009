"""A language model behind any endpoint of the OpenAI Chat Completions protocol: OpenAI, vLLM, Ollama, llama.cpp …"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from chatrpc.errors import ChatError, ModelRejected, Reason, Unavailable
from chatrpc.models.chat.breaker import CircuitOpenError
from chatrpc.models.chat.endpoint import Answer, AttemptError
from chatrpc.models.chat.fallback import Candidate, Candidates
from chatrpc.models.chat.openai_body import chat_body
from chatrpc.models.chat.usage import estimated_usage
from chatrpc.models.profiles import ModelProfiles
from chatrpc.ports import ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.settings import ModelSettings

# In seconds: waits before a retry, and the longest such wait while another endpoint could answer at once.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.25, 8.0
_PATIENCE_BEFORE_FALLBACK = 1.0

log = structlog.get_logger(__name__)


class OpenAIChatModel:
    """Streams replies. Retries, and goes on to the next endpoint, as long as nothing of the reply has come.

    `first_token_timeout` bounds all attempts at all endpoints together, waits between them included, since it is the
    time that a person waits. Each endpoint gets an equal part of what is left of it, so that one that hangs leaves
    some to the next. `token_timeout` bounds each silence after the first token. Thoughts of a reasoning model count
    as tokens, but are not part of the reply.

    An endpoint is passed over while its circuit breaker is open. A wrong key, unlike a request that the endpoint
    refuses, also makes the next one answer. The finish names the model that answered, as `model@endpoint` where the
    model alone would not tell who. Endpoints that do not report usage get an estimate; `stream_options` must at least
    be tolerated.
    """

    def __init__(self, settings: ModelSettings, profiles: ModelProfiles) -> None:
        self._candidates = Candidates(settings, profiles)
        self._first_token_timeout = settings.first_token_timeout
        self._max_retries = settings.max_retries

    def model_name(self, requested: str | None) -> str:
        return self._candidates.model_name(requested)

    async def aclose(self) -> None:
        await self._candidates.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._first_token_timeout
        candidates = self._candidates.of(request)
        healthy = [candidate for candidate in candidates if candidate.endpoint.breaker.wait == 0]
        failure: ChatError | None = None
        remaining = self._first_token_timeout
        for place, candidate in enumerate(healthy):
            left = len(healthy) - place
            try:
                async with aclosing(self._answer(request, candidate, remaining / left, left > 1)) as events:
                    async for event in events:
                        yield event
                return
            except CircuitOpenError:
                continue
            except AttemptError as broken:
                if broken.begun:
                    raise _told(broken) from None
                # That one endpoint refuses its key says less than that another will be back.
                if not isinstance(failure, Unavailable):
                    failure = _told(broken)
                if left > 1:
                    log.warning("model_fallback", failed=candidate.endpoint.name, model=candidate.model)
                remaining = deadline - clock()
        if failure is not None:
            raise failure
        wait = min(candidate.endpoint.breaker.wait for candidate in candidates)
        raise Unavailable(
            Reason.MODEL_UNAVAILABLE, "The language model's endpoint has been failing; try again later.", max(wait, 1.0)
        )

    async def _answer(
        self, request: ModelRequest, candidate: Candidate, patience: float, another: bool
    ) -> AsyncGenerator[ModelEvent, None]:
        """One endpoint's answer, after as many attempts as it takes.

        Args:
            patience: Seconds until its first token, whatever the number of attempts.
            another: Whether another endpoint could answer.

        Raises:
            AttemptError, CircuitOpenError, ModelRejected: It has none.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience
        body = chat_body(request, candidate)
        with candidate.endpoint.breaker.attempt() as health:
            for attempt in itertools.count(1):
                answer = Answer()
                try:
                    async with aclosing(candidate.endpoint.send(body, deadline, patience, answer)) as texts:
                        async for text in texts:
                            health.answering()
                            yield TextDelta(text)
                    break
                except ModelRejected:
                    # An endpoint that says no is there.
                    health.succeeded()
                    raise
                except AttemptError as broken:
                    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing
                    backoff = min(_FIRST_BACKOFF * 2 ** (attempt - 1), _LONGEST_BACKOFF) * jitter
                    wait = max(backoff, broken.retry_after or 0.0)
                    hopeless = (
                        answer.started
                        or not broken.again
                        or attempt > self._max_retries
                        or clock() + wait >= deadline
                        or (another and wait > _PATIENCE_BEFORE_FALLBACK)
                    )
                    log.warning(
                        "model_attempt_failed",
                        endpoint=candidate.endpoint.name,
                        model=candidate.model,
                        attempt=attempt,
                        problem=str(broken),
                        final=hopeless,
                    )
                    if hopeless:
                        health.failed()
                        broken.begun, broken.retry_after = answer.started, wait
                        raise
                    await asyncio.sleep(wait)
            health.succeeded()
        assert answer.reason is not None
        calls = answer.calls.calls()
        for call in calls:
            yield call
        written = (*answer.texts, *(f"{call.name}{call.arguments}" for call in calls))
        usage = answer.usage or estimated_usage(request.prompt, "".join(written))
        yield ModelFinished(answer.reason, candidate.answers_as, usage)


def _told(broken: AttemptError) -> ChatError:
    if isinstance(broken.error, Unavailable):
        broken.error.retry_after = max(broken.retry_after or 0.0, 1.0)
        broken.error.begun = broken.begun
    return broken.error
