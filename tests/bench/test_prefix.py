from __future__ import annotations

from statistics import mean

from bench.prefix.run import BYTES_A_TOKEN, Turn, equal_bytes
from bench.prefix.talk import LMSYS, WORDS_A_TOKEN, talk


def test_equal_bytes_end_at_the_first_difference_or_with_the_shorter() -> None:
    assert equal_bytes(b"abcd", b"abXd") == 2
    assert equal_bytes(b"abcd", b"ab") == 2
    assert equal_bytes(b"ab", b"abcd") == 2
    assert equal_bytes(b"abcd", b"") == 0


def test_blocks_count_whole_and_not_below_the_least() -> None:
    turn = Turn(size=9_000, equal=1_024 * BYTES_A_TOKEN + 100, tail=0, new=0, hits=0, left_out=False)
    assert turn.in_blocks(1) == 4_196
    assert turn.in_blocks(128) == 4_096
    assert turn.in_blocks(128, at_least=1_024) == 4_096
    assert turn.in_blocks(16, at_least=2_000) == 0


def test_messages_are_as_long_on_average_as_said_and_the_same_for_a_seed() -> None:
    said = list(talk(2_000, LMSYS, seed=1))
    assert said[:20] == list(talk(20, LMSYS, seed=1))
    prompts, replies = (mean(len(text.split()) for text in texts) / WORDS_A_TOKEN for texts in zip(*said, strict=True))
    # A whole sentence ends each text, so they are a little longer.
    assert LMSYS.prompt <= prompts <= 1.3 * LMSYS.prompt
    assert 0.95 * LMSYS.response <= replies <= 1.1 * LMSYS.response
