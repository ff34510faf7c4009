"""A language model behind any endpoint of the OpenAI Chat Completions protocol: OpenAI, vLLM, Ollama, llama.cpp …"""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import structlog
from pydantic import ValidationError

from chatrpc.domain import FinishReason, PromptMessage, Usage
from chatrpc.errors import ModelRejected, Reason, Unavailable
from chatrpc.models.chat.openai_stream import Chunk, finish_reason, is_done, parse_line
from chatrpc.models.chat.usage import estimated_usage
from chatrpc.ports import ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.settings import ModelSettings

# In seconds: waits before a retry, and for the end of a response after its last event.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.25, 8.0
_LINGER = 0.5
_TRY_AGAIN = "try again in a moment."

log = structlog.get_logger(__name__)


class _AttemptError(Exception):
    """An attempt failed in a way that another may not; `retry_after` in seconds, where the endpoint said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


@dataclass
class _Reply:
    """What has come of one attempt so far."""

    texts: list[str] = field(default_factory=list)
    started: bool = False
    refused: bool = False
    reason: FinishReason | None = None
    usage: Usage | None = None

    def take(self, chunk: Chunk) -> str | None:
        """Note what a chunk says. Returns its text, empty for a thought or the end; None if it brings neither."""
        if chunk.error:
            raise _AttemptError(f"The language model's endpoint failed while it answered; {_TRY_AGAIN}")
        if chunk.usage is not None:
            self.usage = chunk.usage.to_domain()
        text = None
        for choice in chunk.choices[:1]:
            if choice.delta is not None and choice.delta.is_token:
                text = choice.delta.text
                self.started = True
                self.refused = self.refused or bool(choice.delta.refusal)
            if choice.finish_reason is not None:
                text = text or ""
                self.reason = FinishReason.CONTENT_FILTER if self.refused else finish_reason(choice.finish_reason)
        if text:
            self.texts.append(text)
        return text


def build_openai_chat_model(settings: ModelSettings) -> OpenAIChatModel:
    """The model at `settings.base_url`; closing it closes its connections."""
    client = openai.AsyncOpenAI(
        base_url=settings.base_url,
        # Without a key the client would look for one in the environment and send it to whoever stands at the URL.
        api_key=settings.api_key.get_secret_value() if settings.api_key is not None else "none",
        # The model's own deadlines below bound every wait but that for a connection.
        timeout=openai.Timeout(None, connect=settings.connect_timeout),
        max_retries=0,
    )
    # These two also come from the environment, which only the settings may read.
    client.organization = client.project = None
    return OpenAIChatModel(client, settings)


class OpenAIChatModel:
    """Streams replies, and retries as long as nothing of the reply has come.

    `first_token_timeout` bounds all attempts together, waits between them included, since it is the time that a
    person waits; `token_timeout` bounds each silence after it. Thoughts of a reasoning model count as tokens, but
    are not part of the reply. The client library's own retries are off: they end when the response headers are
    there, though streams also break between those and the first token, and they wait out any Retry-After up to two
    minutes, whatever the caller's deadline.

    The output limit is sent as `max_tokens`, which every other server understands, except to OpenAI itself, whose
    reasoning models refuse it in favour of `max_completion_tokens`. Endpoints that do not report usage get an
    estimate; `stream_options` must at least be tolerated.
    """

    def __init__(self, client: openai.AsyncOpenAI, settings: ModelSettings) -> None:
        assert settings.name is not None, "the settings refuse a base URL without a model's name"
        self._client = client
        self._default_model = settings.name
        self._first_token_timeout = settings.first_token_timeout
        self._token_timeout = settings.token_timeout
        self._max_retries = settings.max_retries
        self._limit_name = "max_tokens"
        if client.base_url.host.endswith("api.openai.com"):
            self._limit_name = "max_completion_tokens"

    def model_name(self, requested: str | None) -> str:
        return requested or self._default_model

    async def aclose(self) -> None:
        await self._client.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        model = self.model_name(request.model)
        body = self._body(request, model)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._first_token_timeout
        attempt = 0
        while True:
            reply = _Reply()
            try:
                async with aclosing(self._attempt(body, deadline, reply)) as texts:
                    async for text in texts:
                        yield TextDelta(text)
                break
            except _AttemptError as broken:
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing
                backoff = min(_FIRST_BACKOFF * 2**attempt, _LONGEST_BACKOFF) * jitter
                wait = max(backoff, broken.retry_after or 0.0)
                attempt += 1
                hopeless = reply.started or attempt > self._max_retries or clock() + wait >= deadline
                log.warning(
                    "model_attempt_failed", model=model, attempt=attempt, problem=broken.message, final=hopeless
                )
                if hopeless:
                    raise Unavailable(Reason.MODEL_UNAVAILABLE, broken.message, max(wait, 1.0)) from None
                await asyncio.sleep(wait)
        assert reply.reason is not None
        usage = reply.usage or estimated_usage(request.prompt, "".join(reply.texts))
        yield ModelFinished(reply.reason, model, usage)

    def _body(self, request: ModelRequest, model: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": _joined(request.prompt),
            "stream": True,
            "stream_options": {"include_usage": True},
            self._limit_name: request.max_output_tokens,
        }
        if request.sampling.temperature is not None:
            body["temperature"] = request.sampling.temperature
        if request.sampling.top_p is not None:
            body["top_p"] = request.sampling.top_p
        return body

    async def _attempt(self, body: dict[str, Any], deadline: float, reply: _Reply) -> AsyncGenerator[str, None]:
        """Send the request once and yield the text of its tokens.

        Raises:
            _AttemptError: No complete reply came; `reply.started` tells whether a part of it did.
            ModelRejected: The endpoint refuses the request.
        """
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as stack:
            with self._translated(reply, body["model"]):
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
                    text = reply.take(chunk)
                    if text:
                        yield text
                    if text is not None:
                        # Counted from here, so that a reader who takes his time does not use up the model's.
                        deadline = clock() + self._token_timeout
        if reply.reason is None:
            raise _AttemptError(f"The language model's endpoint cut the reply off; {_TRY_AGAIN}")

    @contextmanager
    def _translated(self, reply: _Reply, model: str) -> Iterator[None]:
        """Put failures into plain words. After the finish reason only the usage can be lost, which is no failure."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self._status_failure(error, model) from None
        except TimeoutError:
            if reply.reason is None:
                raise _AttemptError(self._silence(reply)) from None
        except ValidationError:
            if reply.reason is None:
                raise _AttemptError(f"The language model's endpoint sent what is no reply; {_TRY_AGAIN}") from None
        except openai.APIConnectionError:
            raise _AttemptError(f"The language model's endpoint cannot be reached; {_TRY_AGAIN}") from None
        except (openai.APIError, httpx2.HTTPError, httpx2.StreamError):
            if reply.reason is None:
                raise _AttemptError(f"The language model's endpoint cut the reply off; {_TRY_AGAIN}") from None

    def _silence(self, reply: _Reply) -> str:
        if reply.started:
            return f"The language model fell silent for {self._token_timeout:g} seconds; {_TRY_AGAIN}"
        return f"The language model sent no token within {self._first_token_timeout:g} seconds; {_TRY_AGAIN}"

    def _status_failure(self, error: openai.APIStatusError, model: str) -> _AttemptError | ModelRejected:
        """The failure that an HTTP status means. The provider's own words are for the log alone, without the key."""
        status = error.status_code
        log.warning(
            "model_request_refused",
            model=model,
            status=status,
            provider_request_id=error.request_id,
            provider_message=error.message.replace(self._client.api_key, "[key]")[:300],
        )
        if status == 429:
            return _AttemptError(
                "The language model's endpoint is overloaded (HTTP 429); try again later.",
                _retry_after(error.response.headers),
            )
        if status in (408, 409) or status >= 500:
            return _AttemptError(
                f"The language model's endpoint failed (HTTP {status}); {_TRY_AGAIN}",
                _retry_after(error.response.headers),
            )
        if status in (401, 403):
            sentence = "refuses this server's key; its operator must check CHATRPC_MODEL_API_KEY"
        elif status == 404:
            sentence = f"has no model {model!r}; name another model, or check CHATRPC_MODEL_BASE_URL"
        else:
            sentence = "refuses the request; check the sampling settings and the length of the conversation"
        return ModelRejected(
            Reason.MODEL_REJECTED, f"The language model's endpoint {sentence} (HTTP {status}).", model=model
        )


def _joined(prompt: Iterable[PromptMessage]) -> list[dict[str, str]]:
    """The prompt with neighbours of one role made one message: many chat templates of open models (Mistral, Gemma)
    refuse a second system message, and users and assistants that do not take turns."""
    return [
        {"role": role, "content": "\n\n".join(message.content for message in messages)}
        for role, messages in itertools.groupby(prompt, key=lambda message: message.role)
    ]


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
