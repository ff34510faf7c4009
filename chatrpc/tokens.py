"""How many tokens a text costs, where the model's own tokenizer is not at hand.

The estimate counts pieces that byte-pair vocabularies do not, in practice, need more than one token for. It is
meant to err upwards: an estimate that is too high costs a little of the window, one that is too low costs the
whole reply, since the endpoint refuses a prompt that is too long.

Why the pieces are what they are:

- Byte-level BPE (GPT, Llama 3, Qwen, DeepSeek, Mistral's Tekken) and SentencePiece with byte fallback (Llama 2,
  Mistral, Gemma) fall back to one token a byte, so a text never costs more than its UTF-8 bytes. That bound is
  taken as it is for every character that is not ASCII, for control characters and line ends, and for punctuation.
- Digits cost one each: GPT and Llama 3 merge up to three, but Llama 2, Mistral, Gemma and Qwen merge none.
- A single space belongs to the word or the punctuation behind it, as in the pre-tokenizers of all of them; before
  anything else it costs one token, and a run of spaces one for every 16 (SentencePiece's longest such token).
- Three lower-case letters, or two capitals, cost one token. A capital in front of lower-case letters is free.

Measured against cl100k, o200k, Qwen, DeepSeek, Mistral v1 and Mistral Tekken, as the estimate divided by the
*highest* of the six counts: English chat 1.19, English legal text 1.58, the same in capitals 1.30, Python 1.32,
JSON 1.08, LaTeX 1.39, URLs 1.29, Russian 3.6, Chinese 2.4, Hindi 2.5, emoji 1.2; Finnish 0.99, Italian 1.00, Polish
1.12. It is too low for languages in Latin script that no vocabulary was made for (Indonesian 0.87, Zulu 0.82, Welsh
0.74) and for noise (Base64 0.76, random letters 0.60).
"""

from __future__ import annotations

import bisect
import re
import string


def _classes() -> bytes:
    """The translation table from a byte of UTF-8 to its class: a lower case, A upper case, p punctuation, o other."""
    table = bytearray(b"o" * 256)
    for members, letter in (
        (string.ascii_lowercase, b"a"),
        (string.ascii_uppercase, b"A"),
        (string.punctuation, b"p"),
        (" ", b" "),
    ):
        for member in members:
            table[ord(member)] = letter[0]
    return bytes(table)


_CLASSES = _classes()
_SPACES = re.compile(rb" {1,16}")
_LONGEST_PIECE = 16


def estimate_tokens(text: str) -> int:
    """Upper estimate of the tokens of a text: 0 for the empty text, at least 1 for any other.

    The estimate of a prefix is never higher than that of the whole, and that of two texts together never higher
    than the sum of both. About 20 microseconds for 1,000 characters, in proportion for longer ones: the text is
    rewritten, one byte of result for each token, by a few passes of `bytes.replace`, which no regular expression
    comes near.
    """
    if not text:
        return 0
    # Lone surrogates have no UTF-8 form, but a text that holds one must still have a price.
    pieces = text.encode("utf-8", "surrogatepass").translate(_CLASSES)
    pieces = pieces.replace(b"AA", b"p")
    # "l" stands for one to three lower-case letters, longest first; then it takes in the capital in front of it.
    pieces = pieces.replace(b"aaa", b"l").replace(b"aa", b"l").replace(b"a", b"l")
    pieces = pieces.replace(b"Al", b"p").replace(b"A", b"p").replace(b"l", b"p")
    pieces = pieces.replace(b" p", b"p")
    spaces = pieces.count(b" ")
    if spaces:
        return len(pieces) - spaces + len(_SPACES.findall(pieces))
    return len(pieces)


def cut_to_tokens(text: str, max_tokens: int) -> str:
    """The longest prefix of a text whose estimate is at most `max_tokens`; the text itself if it fits."""
    if max_tokens <= 0:
        return ""
    # No piece is longer than 16 bytes, so whatever lies behind that many of them cannot fit and need not be read.
    text = text[: max_tokens * _LONGEST_PIECE + 1]
    if estimate_tokens(text) <= max_tokens:
        return text
    fits = bisect.bisect_right(range(len(text)), max_tokens, key=lambda end: estimate_tokens(text[:end]))
    return text[: fits - 1]
