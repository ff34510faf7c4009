"""A model's own tokenizer decides where the estimate does not."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from chatrpc.context.budget import Material, Query
from chatrpc.context.fitting import Fitting
from chatrpc.domain import Section
from chatrpc.models.profiles import ModelProfile
from tests.context.conversation import hit, linear, message, summary


class Counted:
    """A tokenizer that tells who asks it, and for what."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []
        self.threads: set[int] = set()

    def encode(self, text: str, add_special_tokens: bool):
        self.texts.append(text)
        self.threads.add(threading.get_ident())
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)


def tokenizer(pattern: str) -> Counted:
    """Every match of the pattern is a token."""
    made = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = Split(pattern, "isolated")
    return Counted(made)


def material(messages=(), query: str = "Why?", **parts) -> Material:
    asked = message(30, query)
    given = {"instruction": "", "summary": None, "hits": ()} | parts
    return Material(messages=tuple(messages), query=Query(asked.id, 30, asked.text, asked.tokens), **given)


@pytest.fixture
def characters() -> Counted:
    """Every character is a token: far more than the estimate says."""
    return tokenizer(Regex("(?m)."))


@pytest.fixture
def words() -> Counted:
    """Every line is a token: far fewer than the estimate says."""
    return tokenizer("\n")


async def test_far_below_the_budget_nobody_counts(characters: Counted) -> None:
    fitted = await Fitting().fit(ModelProfile(10_000, 1_000, characters), material(linear(20)))
    assert len(fitted.messages) == 20
    assert characters.texts == []


async def test_what_the_estimate_would_let_through_is_left_out(characters: Counted) -> None:
    given = material(linear(40, "unpredictable words " * 4), hits=(hit("found"),), summary=summary(message(1)))
    plain = await Fitting().fit(ModelProfile(2_000, 300), given)
    fitted = await Fitting().fit(ModelProfile(2_000, 300, characters), given)
    assert len(fitted.messages) < len(plain.messages)
    assert sum(fitted.tokens.values()) <= 1_700
    assert sum(len(each.text) for each in fitted.messages) <= fitted.tokens[Section.VERBATIM]


async def test_what_the_estimate_would_leave_out_stays(words: Counted) -> None:
    given = material(linear(40, "unpredictable words " * 10))
    plain = await Fitting().fit(ModelProfile(2_000, 300), given)
    fitted = await Fitting().fit(ModelProfile(2_000, 300, words), given)
    assert len(plain.messages) < 40
    assert len(fitted.messages) == 40


async def test_a_message_is_counted_once_and_off_the_event_loop(characters: Counted) -> None:
    fitting, profile = Fitting(), ModelProfile(2_000, 300, characters)
    said = linear(40, "unpredictable words " * 4)
    await fitting.fit(profile, material(said[:38], "first"))
    characters.texts.clear()
    await fitting.fit(profile, material(said, "second"))
    assert sorted(characters.texts) == sorted([said[38].text, said[39].text, "second"])
    assert threading.get_ident() not in characters.threads


async def test_a_text_whose_message_was_erased_is_counted_anew(characters: Counted) -> None:
    fitting, profile = Fitting(), ModelProfile(2_000, 300, characters)
    said = linear(30, "unpredictable words " * 4)
    await fitting.fit(profile, material(said))
    shorter = replace(said[-1], parts=(replace(said[-1].parts[0], text="gone"),))
    fitted = await fitting.fit(profile, material([*said[:-1], shorter]))
    assert fitted.verbatim[-2].tokens == len("gone") + 8


@pytest.mark.parametrize("fixture", ["characters", "words"])
async def test_a_query_beyond_the_budget_is_cut_by_the_tokenizers_count(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    counted = request.getfixturevalue(fixture)
    long = "a line of words\n" * 20_000
    fitted = await Fitting().fit(ModelProfile(4_000, 400, counted), material(query=long))
    assert "characters are left out here" in fitted.query_text
    assert 3_000 < sum(fitted.tokens.values()) <= 3_600
