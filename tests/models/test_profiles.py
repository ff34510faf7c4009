"""Which figures hold for which model."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from chatrpc.errors import SettingsError
from chatrpc.models.profiles import MOST_RESERVED, ModelProfiles, load_profiles
from chatrpc.settings import ModelSettings, ProfileSettings, load


def profiles(**settings: object) -> ModelProfiles:
    return load_profiles(ModelSettings.model_validate(settings))


def write_tokenizer(path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))
    return path


def test_an_unknown_model_has_the_settings_window() -> None:
    profile = profiles(context_window=9_000, output_reserve=500).of("chatrpc-offline")
    assert (profile.window, profile.output_reserve, profile.budget, profile.tokenizer) == (9_000, 500, 8_500, None)


@pytest.mark.parametrize(
    ("name", "window", "reserve"),
    [
        ("gpt-4o", 128_000, 16_384),
        ("gpt-4o-mini-2024-07-18", 128_000, 16_384),
        ("gpt-4o-2024-05-13", 128_000, 4_096),
        ("openai/GPT-4.1-mini", 1_047_576, MOST_RESERVED),
        ("gpt-5-chat-latest", 128_000, 16_384),
        ("gpt-5-nano", 272_000, MOST_RESERVED),
        ("gpt-4", 8_192, 2_048),
        ("claude-sonnet-4-5", 200_000, MOST_RESERVED),
        ("claude-sonnet-4-6", 1_000_000, MOST_RESERVED),
        ("claude-opus-5-5", 1_000_000, MOST_RESERVED),
        ("claude-3-haiku-20240307", 200_000, 4_096),
        ("models/gemini-2.5-pro", 1_048_576, MOST_RESERVED),
    ],
)
def test_a_hosted_model_has_its_publishers_figures(name: str, window: int, reserve: int) -> None:
    profile = profiles().of(name)
    assert (profile.window, profile.output_reserve) == (window, reserve)


@pytest.mark.parametrize(
    ("name", "window", "reserve"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 50_000, 3_000),
        ("llama3:8b", 8_192, 2_048),
        ("google/gemma-2-9b-it", 8_192, 2_048),
        ("TinyLlama-1.1B-Chat-v1.0", 2_048, 512),
        ("qwen2.5:7b", 32_768, 3_000),
    ],
)
def test_open_weights_have_no_more_than_their_own_window_and_what_the_server_gives(
    name: str, window: int, reserve: int
) -> None:
    profile = profiles(context_window=50_000, output_reserve=3_000).of(name)
    assert (profile.window, profile.output_reserve) == (window, reserve)


def test_what_the_operator_states_comes_first_and_the_longest_pattern_wins() -> None:
    found = profiles(
        profiles={
            "*": {"output_reserve": 100},
            "gpt-4o*": {"context_window": 20_000},
            "house/gpt-4o-tuned": {"context_window": 30_000, "output_reserve": 1_000},
        }
    )
    assert found.of("other").output_reserve == 100
    assert (found.of("gpt-4o").window, found.of("gpt-4o").output_reserve) == (20_000, 5_000)
    assert (found.of("house/gpt-4o-tuned").window, found.of("house/gpt-4o-tuned").output_reserve) == (30_000, 1_000)


def test_a_reserve_never_takes_more_than_half_of_a_window() -> None:
    assert profiles(profiles={"m": {"context_window": 2_048}}, output_reserve=8_000).of("m").budget >= 1_024
    assert profiles(profiles={"gpt-4": {"output_reserve": 8_000}}).of("gpt-4").budget == 4_096


def test_a_tokenizer_counts_and_neither_cuts_nor_pads(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = profiles(profiles={"m": {"tokenizer": str(path)}}).of("m").tokenizer
    assert tokenizer is not None
    assert len(tokenizer.encode("one two three").ids) == 3


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for path in (broken, tmp_path / "absent.json"):
        with pytest.raises(SettingsError, match=path.name):
            profiles(profiles={"m": {"tokenizer": str(path)}})


def test_profiles_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATRPC_MODEL_PROFILES", '{"m": {"context_window": 4096}}')
    assert load(ModelSettings).profiles == {"m": ProfileSettings(context_window=4_096)}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "CHATRPC_MODEL_PROFILES: not JSON: Expecting property name enclosed in double quotes at character 2."),
        ('{"m": {"window": 1}}', "CHATRPC_MODEL_PROFILES: 'm': 'window': Extra inputs are not permitted."),
        (
            '{"m": {"context_window": 2048, "output_reserve": 2000}}',
            "CHATRPC_MODEL_PROFILES: 'm': an output_reserve must be at most half of its context_window.",
        ),
    ],
)
def test_a_malformed_profile_is_named(value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATRPC_MODEL_PROFILES", value)
    with pytest.raises(SettingsError) as caught:
        load(ModelSettings)
    assert str(caught.value) == sentence


def test_every_figure_has_its_source_and_no_pattern_stands_twice() -> None:
    table = tomllib.loads(files("chatrpc.models").joinpath("profiles.toml").read_text())["profile"]
    names = [name for each in table for name in each["names"]]
    assert len(names) == len(set(names))
    for each in table:
        assert each["source"].startswith("https://")
        assert 0 < each["output"] <= each["window"]
