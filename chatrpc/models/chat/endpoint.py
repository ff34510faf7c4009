"""One endpoint of the OpenAI Chat Completions protocol: it sends a request once, and puts failures into plain words."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import structlog
from pydantic import ValidationError

from chatrpc.domain import FinishReason, Usage
from chatrpc.errors import ChatError, ModelRejected, Reason, Unavailable
from chatrpc.models.chat.breaker import CircuitBreaker
from chatrpc.models.chat.openai_stream import CallCollector, Chunk, finish_reason, is_done, parse_line

# Seconds that the end of a response may take after its last event.
_LINGER = 0.5
_TRY_AGAIN = "try again in a moment."

log = structlog.get_logger(__name__)


class AttemptError(Exception):
    """The endpoint failed, not the request: another one may answer it.

    Attributes:
        error: What callers hear if none does.
        again: Whether another attempt at the same endpoint may succeed.
        retry_after: Seconds, where the endpoint said so.
        begun: Whether a part of the reply has come.
    """

    begun = False

    def __init__(self, error: ChatError, *, again: bool = True, retry_after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.retry_after = retry_after


def _unavailable(sentence: str, retry_after: float | None = None) -> AttemptError:
    return AttemptError(Unavailable(Reason.MODEL_UNAVAILABLE, sentence), retry_after=retry_after)


@dataclass
class Answer:
    """What has come of one attempt so far."""

    texts: list[str] = field(default_factory=list)
    calls: CallCollector = field(default_factory=CallCollector)
    started: bool = False
    refused: bool = False
    reason: FinishReason | None = None
    usage: Usage | None = None

    def take(self, chunk: Chunk) -> str | None:
        """Note what a chunk says. Returns its text, empty for a thought or the end; None if it brings neither."""
        if chunk.error:
            raise _unavailable(f"The language model's endpoint failed while it answered; {_TRY_AGAIN}")
        if chunk.usage is not None:
            self.usage = chunk.usage.to_domain()
        text = None
        for choice in chunk.choices[:1]:
            if choice.delta is not None and choice.delta.is_token:
                text = choice.delta.text
                self.calls.take(choice.delta.tool_calls or ())
                self.started = True
                self.refused = self.refused or bool(choice.delta.refusal)
            if choice.finish_reason is not None:
                text = text or ""
                self.reason = FinishReason.CONTENT_FILTER if self.refused else finish_reason(choice.finish_reason)
        if text:
            self.texts.append(text)
        return text


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: until a connection stands, until the first token, and between two."""

    connect: float
    first_token: float
    token: float


@dataclass(frozen=True, slots=True)
class GivenBy:
    """Names of the settings that an endpoint's key and base URL were given by."""

    api_key: str = "CHATRPC_MODEL_API_KEY"
    base_url: str = "CHATRPC_MODEL_BASE_URL"


class Endpoint:
    """A base URL with its key, its connections and its health.

    The client library's own retries are off: they end when the response headers are there, though streams also break
    between those and the first token, and they wait out any Retry-After up to two minutes, whatever the caller's
    deadline.

    Args:
        name: For people: it stands in the log, and in a reply's model where that alone would not tell who answered.
        given_by: The settings that an operator has to look at.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str | None,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        given_by: GivenBy,
    ) -> None:
        self.name = name
        self.breaker = breaker
        self._given_by = given_by
        self._timeouts = timeouts
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            # Without a key the client would look for one in the environment and send it to whoever stands at the URL.
            api_key=api_key if api_key is not None else "none",
            # The deadlines below bound every wait but that for a connection.
            timeout=openai.Timeout(None, connect=timeouts.connect),
            max_retries=0,
        )
        # These two also come from the environment, which only the settings may read.
        self._client.organization = self._client.project = None
        # Every other server understands `max_tokens`; OpenAI's own reasoning models refuse it in favour of the other.
        openai_itself = self._client.base_url.host.endswith("api.openai.com")
        self.limit_name = "max_completion_tokens" if openai_itself else "max_tokens"

    async def aclose(self) -> None:
        await self._client.close()

    async def send(
        self, body: dict[str, Any], deadline: float, patience: float, answer: Answer
    ) -> AsyncGenerator[str, None]:
        """Send a request once and yield the text of its tokens.

        Args:
            deadline: Of the first token, on the loop's clock.
            patience: Seconds that all attempts here have until then.
            answer: Gets what comes.

        Raises:
            AttemptError: No complete answer came; `answer` tells what did.
            ModelRejected: The endpoint refuses the request.
        """
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as stack:
            with self._translated(answer, body["model"], patience):
                async with asyncio.timeout_at(deadline):
                    response = await stack.enter_async_context(
                        self._client.chat.completions.with_streaming_response.create(**body)
                    )
                lines = response.iter_lines()
                while True:
                    async with asyncio.timeout_at(deadline):
                        line = await anext(lines, None)
                    if line is None:
                        break
                    if is_done(line):
                        # Read to the end all the same, for only then can the connection serve again; but not for long.
                        deadline = clock() + _LINGER
                        continue
                    chunk = parse_line(line)
                    if chunk is None:
                        continue
                    text = answer.take(chunk)
                    if text:
                        yield text
                    if text is not None:
                        # Counted from here, so that a reader who takes his time does not use up the model's.
                        deadline = clock() + self._timeouts.token
        if answer.reason is None:
            raise _unavailable(f"The language model's endpoint cut the reply off; {_TRY_AGAIN}")

    @contextmanager
    def _translated(self, answer: Answer, model: str, patience: float) -> Iterator[None]:
        """Put failures into plain words. After the finish reason only the usage can be lost, which is no failure."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self._status_failure(error, model) from None
        except TimeoutError:
            if answer.reason is None:
                raise _unavailable(self._silence(answer, patience)) from None
        except ValidationError:
            if answer.reason is None:
                raise _unavailable(f"The language model's endpoint sent what is no reply; {_TRY_AGAIN}") from None
        except openai.APIConnectionError:
            raise _unavailable(f"The language model's endpoint cannot be reached; {_TRY_AGAIN}") from None
        except (openai.APIError, httpx2.HTTPError, httpx2.StreamError):
            if answer.reason is None:
                raise _unavailable(f"The language model's endpoint cut the reply off; {_TRY_AGAIN}") from None

    def _silence(self, answer: Answer, patience: float) -> str:
        if answer.started:
            return f"The language model fell silent for {self._timeouts.token:g} seconds; {_TRY_AGAIN}"
        return f"The language model sent no token within {patience:.3g} seconds; {_TRY_AGAIN}"

    def _status_failure(self, error: openai.APIStatusError, model: str) -> AttemptError | ModelRejected:
        """The failure that an HTTP status means. The provider's own words are for the log alone, without the key."""
        status = error.status_code
        log.warning(
            "model_request_refused",
            endpoint=self.name,
            model=model,
            status=status,
            provider_request_id=error.request_id,
            provider_message=error.message.replace(self._client.api_key, "[key]")[:300],
        )
        if status == 429:
            sentence = "The language model's endpoint is overloaded (HTTP 429); try again later."
            return _unavailable(sentence, _retry_after(error.response.headers))
        if status in (408, 409) or status >= 500:
            sentence = f"The language model's endpoint failed (HTTP {status}); {_TRY_AGAIN}"
            return _unavailable(sentence, _retry_after(error.response.headers))
        if status in (401, 403):
            sentence = f"refuses this server's key; its operator must check {self._given_by.api_key}"
        elif status == 404:
            sentence = f"has no model {model!r}; name another model, or check {self._given_by.base_url}"
        else:
            sentence = "refuses the request; check the sampling settings and the length of the conversation"
        rejected = ModelRejected(
            Reason.MODEL_REJECTED, f"The language model's endpoint {sentence} (HTTP {status}).", model=model
        )
        # A wrong key is no fault of the request's.
        return AttemptError(rejected, again=False) if status in (401, 403) else rejected


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None if it says nothing usable."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
