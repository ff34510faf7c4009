"""What each language model takes: its window, what of it is kept for the reply, and how its tokens are counted.

A profile is found by the name of the model that will answer. What the operator says in CHATRPC_MODEL_PROFILES comes
first, then `profiles.toml` beside this file, then the default for unknown models.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

from tokenizers import Tokenizer

from chatrpc.errors import SettingsError
from chatrpc.settings import ModelSettings, ProfileSettings

MOST_RESERVED = 16_384
"""Tokens kept for a reply at most where nobody says otherwise: newer models can write whole books, which a chat does
not ask for, and providers count what is reserved against the rate limit."""

# Unless the operator says otherwise, a reply has one part in so many of the window, so that a small one still holds a
# conversation.
_SMALLEST_SHARE = 4


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What one model takes.

    Attributes:
        window: Tokens of prompt and reply together.
        output_reserve: Tokens of it kept for the reply; a reply is never longer.
        tokenizer: The model's own; None where tokens are counted by the upper estimate of `chatrpc.tokens`.
    """

    window: int
    output_reserve: int
    tokenizer: Tokenizer | None = None

    @property
    def budget(self) -> int:
        """Tokens that a prompt may cost."""
        return self.window - self.output_reserve


@dataclass(frozen=True, slots=True)
class _Known:
    pattern: str
    window: int
    output: int
    weights: bool


class ModelProfiles:
    """The profiles of all models that turns may name."""

    def __init__(self, settings: ModelSettings, tokenizers: dict[str, Tokenizer]) -> None:
        self._settings = settings
        self._tokenizers = tokenizers
        self._found: dict[str, ModelProfile] = {}

    def of(self, model: str) -> ModelProfile:
        """The profile of the model of this name."""
        profile = self._found.get(model)
        if profile is None:
            profile = self._resolve(model)
            # Callers choose the names, so the memory for them is bounded.
            if len(self._found) < 1_000:
                self._found[model] = profile
        return profile

    def _resolve(self, model: str) -> ModelProfile:
        stated, known = _stated(self._settings.profiles, model), _known(model)
        window, reserve = self._settings.context_window, self._settings.output_reserve
        if known is not None:
            window = min(known.window, window) if known.weights else known.window
            reserve = min(known.output, reserve if known.weights else MOST_RESERVED, window // _SMALLEST_SHARE)
        if stated.context_window is not None:
            window = stated.context_window
            reserve = min(reserve, window // _SMALLEST_SHARE)
        # Where only one of the two is stated, the other may not go with it.
        reserve = min(stated.output_reserve or reserve, window // 2)
        tokenizer = None if stated.tokenizer is None else self._tokenizers[stated.tokenizer]
        return ModelProfile(window, reserve, tokenizer)


def load_profiles(settings: ModelSettings) -> ModelProfiles:
    """Read the tokenizers that the settings name; some 0.1 to 1 s each.

    Raises:
        SettingsError: A tokenizer cannot be read.
    """
    paths = {profile.tokenizer for profile in settings.profiles.values() if profile.tokenizer is not None}
    return ModelProfiles(settings, {path: _tokenizer(path) for path in sorted(paths)})


def _tokenizer(path: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception, whatever is wrong with the file.
        raise SettingsError(f"CHATRPC_MODEL_PROFILES: the tokenizer {path} cannot be read: {error}.") from None
    # A file may order texts to be cut or padded to a length, which is no way to count.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _stated(profiles: dict[str, ProfileSettings], model: str) -> ProfileSettings:
    matching = [pattern for pattern in profiles if _matches(model, pattern)]
    return profiles[max(matching, key=len)] if matching else ProfileSettings()


def _known(model: str) -> _Known | None:
    return max((known for known in _table() if _matches(model, known.pattern)), key=_length, default=None)


def _length(known: _Known) -> int:
    return len(known.pattern)


def _matches(model: str, pattern: str) -> bool:
    name, pattern = model.lower(), pattern.lower()
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


@cache
def _table() -> tuple[_Known, ...]:
    text = files("chatrpc.models").joinpath("profiles.toml").read_text("utf-8")
    return tuple(
        _Known(name, profile["window"], profile["output"], profile.get("weights", False))
        for profile in tomllib.loads(text)["profile"]
        for name in profile["names"]
    )
