"""How much a sentence looks like something to remember, by its words alone.

The rules for words are for English; names, numbers and the speaker count in any language with capitals.
"""

from __future__ import annotations

import re

_I = r"\b(?:i|we)(?:'(?:m|re|ve)|\s+am|\s+are|\s+was|\s+were|\s+have|\s+had)?"
# Verbs that say how one sees a thing at the moment, auxiliaries, and past forms not in -ed: "I think", "I went".
_PASSING = (
    "agree admire also always am appreciate are be believe bet came can could definitely did do don ended even"
    " felt feel find found gave get guess had have heard hope just keep know knew like look love made may mean met"
    " might must need only really remember said saw say see should still think thought took totally try understand"
    " want was went were will wish would"
).replace(" ", "|")
# What a person is, has and does for good.
_LASTING = re.compile(
    # My sister is, our rent was, my passport expires.
    r"\b(?:my|our)\s+(?:[\w'-]+\s+){1,5}"
    r"(?:is|are|was|were|has|lives?|lived|works?|worked|expires?|starts?|leaves?|wants?|needs?)\b"
    # I was born, we've agreed, I prefer.
    rf"|{_I}\s+(?:born|called|named|from|allergic|married|engaged|divorced|vegan|vegetarian|learning|studying|training"
    r"|working as|writing|lived|worked|used to|prefer|moved|grew up|broke|quit|joined|adopted|bought|got|decided"
    r"|agreed|promised|usually|can't stand|cannot stand|never (?:eat|drink|use|take|go|work))\b"
    # I am a nurse, we have two cats.
    rf"|{_I}\s+(?:a|an|one|two|three|four|five|\d+)\s"
    # Any other verb in the present tense is a habit: I teach chemistry, we live at.
    rf"|\b(?:i|we)\s+(?!(?:{_PASSING})\b)(?!\w*ed\b)[a-z]+\s+(?!to\b)\w"
    r"|\bcall\s+me\b",
    re.IGNORECASE,
)
# What is said in order to be kept, or binds for a time to come.
_BINDING = re.compile(
    r"(?:^|please |must |to )remember\b|\b(?:remind me|don't forget|keep in mind|note that|from now on|deadline"
    r"|due (?:on|by|in)|appointment|birthday|anniversary|password|phone number|address is|favou?rite|allerg\w+)\b",
    re.IGNORECASE,
)
_PERSONAL = re.compile(r"\b(?:i|we|my|our)\b", re.IGNORECASE)
# A capitalised word that does not open the sentence. "I" and its short forms are no names.
_NAME = re.compile(r"(?<=[\w,;'\"] )(?!I\b)[A-Z][\w'-]+")
_NUMBER = re.compile(r"\d")
_QUESTION = re.compile(r"[?\uff1f]\W*$")
_EXCLAMATION = re.compile(r"[!\uff01]\W*$")
_SHORT = 4
"""Words below which a sentence, such as a greeting, says little by itself, in a script that has spaces."""


def salience(line: str) -> float:
    """Worth of keeping a line of the form `speaker: sentence`, between about -1 and 3.5."""
    speaker, _, sentence = line.partition(": ")
    # An assistant's "I" is not a person whose life is to be remembered.
    worth = 0.0
    if speaker == "user":
        worth += 0.3
        worth += 1.2 if _LASTING.search(sentence) else 0.2 if _PERSONAL.search(sentence) else 0.0
    worth += 0.8 if _BINDING.search(sentence) else 0.0
    worth += 0.4 if _NAME.search(sentence) else 0.0
    worth += 0.4 if _NUMBER.search(sentence) else 0.0
    worth -= 1.0 if _QUESTION.search(sentence) else 0.0
    worth -= 0.3 if _EXCLAMATION.search(sentence) else 0.0
    worth -= 0.6 if sentence.isascii() and len(sentence.split()) < _SHORT else 0.0
    return worth
