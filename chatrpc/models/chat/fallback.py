"""Who may answer a request: the configured endpoint first, then its fallbacks in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from chatrpc.models.chat.breaker import CircuitBreaker
from chatrpc.models.chat.endpoint import Endpoint, GivenBy, Timeouts
from chatrpc.models.chat.usage import prompt_tokens
from chatrpc.models.profiles import ModelProfile, ModelProfiles
from chatrpc.ports import ModelRequest
from chatrpc.settings import FallbackSettings, ModelSettings
from chatrpc.tokens import estimate_tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint that may answer a request.

    Attributes:
        model: As the endpoint names it.
        answers_as: As the reply names it.
        max_output_tokens: Of the reply.
    """

    endpoint: Endpoint
    model: str
    answers_as: str
    max_output_tokens: int


class Candidates:
    """Lists the candidates for each request. Endpoints of one base URL and key are one, with one circuit breaker."""

    def __init__(self, settings: ModelSettings, profiles: ModelProfiles) -> None:
        assert settings.base_url is not None, "without an endpoint the offline model answers"
        assert settings.name is not None, "the settings refuse a base URL without a model's name"
        self._settings = settings
        self._profiles = profiles
        self._default_model = settings.name
        self._endpoints: dict[tuple[str, str | None], Endpoint] = {}
        key = None if settings.api_key is None else settings.api_key.get_secret_value()
        self._first = self._endpoint(settings.base_url, key, None, GivenBy())
        self._fallbacks = [(each, self._endpoint_of(each, settings.base_url, key)) for each in settings.fallbacks]

    def model_name(self, requested: str | None) -> str:
        return requested or self._default_model

    async def aclose(self) -> None:
        for endpoint in self._endpoints.values():
            await endpoint.aclose()

    def of(self, request: ModelRequest) -> list[Candidate]:
        """The candidates for a request, in order. The first is always the configured endpoint; a fallback is left
        out where the prompt does not fit into its model's window."""
        wanted = self.model_name(request.model)
        candidates = [Candidate(self._first, wanted, wanted, request.max_output_tokens)]
        # Most requests have one, whose cost is not worth counting.
        candidates += self._fitting(request, wanted) if self._fallbacks else ()
        return candidates

    def _fitting(self, request: ModelRequest, wanted: str) -> Iterator[Candidate]:
        taken = {wanted}
        for settings, endpoint in self._fallbacks:
            model = settings.models.get(wanted, settings.name)
            name = f"{model}@{endpoint.name}" if model in taken else model
            taken.add(model)
            profile = self._profiles.of(model)
            if _prompt_tokens(request, profile) <= profile.budget:
                yield Candidate(endpoint, model, name, min(request.max_output_tokens, profile.output_reserve))

    def _endpoint_of(self, fallback: FallbackSettings, base_url: str, key: str | None) -> Endpoint:
        if fallback.base_url is None:
            return self._endpoint(base_url, key, fallback.label, GivenBy())
        # A key belongs to the endpoint that it was given for.
        own_key = None if fallback.api_key is None else fallback.api_key.get_secret_value()
        where = f"of {fallback.label or _host(fallback.base_url)!r} in CHATRPC_MODEL_FALLBACKS"
        given_by = GivenBy(fallback.api_key_variable or f"the api_key {where}", f"the base_url {where}")
        return self._endpoint(fallback.base_url, own_key, fallback.label, given_by)

    def _endpoint(self, base_url: str, key: str | None, label: str | None, given_by: GivenBy) -> Endpoint:
        endpoint = self._endpoints.get((base_url, key))
        if endpoint is None:
            settings = self._settings
            name = label or _host(base_url)
            timeouts = Timeouts(settings.connect_timeout, settings.first_token_timeout, settings.token_timeout)
            breaker = CircuitBreaker(name, settings.breaker_failures, settings.breaker_pause)
            endpoint = self._endpoints[base_url, key] = Endpoint(name, base_url, key, timeouts, breaker, given_by)
        return endpoint


def _host(base_url: str) -> str:
    """Host and port, without a name and a password."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


def _prompt_tokens(request: ModelRequest, profile: ModelProfile) -> int:
    """What the prompt costs as the model's tokenizer counts; an upper estimate where it is not at hand."""

    def count(text: str) -> int:
        if profile.tokenizer is None:
            return estimate_tokens(text)
        return len(profile.tokenizer.encode(text, add_special_tokens=False).ids)

    declared = [f"{tool.name}{tool.description}{tool.parameters}" for tool in request.tools]
    declared.append(request.response_schema or "")
    return sum(map(count, declared)) + sum(prompt_tokens(message, count) for message in request.prompt)
