"""A conversation that nobody had, with messages as long as people's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

WORDS_A_TOKEN = 0.75
SIGMA = 1.0
LONGEST = 16
"""Times the mean that a message is long at most."""

SUBJECTS = {
    "the kitchen": "counter oven tiles plumber sink cupboard paint invoice dishwasher lamp carpenter marble",
    "the marathon": "training knee shoes pace coach injury interval route hydration taper finish physiotherapist",
    "the thesis": "chapter supervisor citation experiment deadline draft dataset committee appendix figure review",
    "the garden": "tomatoes compost hedge seedlings frost pruning greenhouse watering slugs orchard roses mulch",
    "the trip to Lisbon": "flight hostel tram passport museum ferry luggage itinerary reservation beach tapas",
    "the server": "deployment latency database migration certificate backup container memory timeout rollback log",
    "the wedding": "caterer invitation seating photographer vows florist dress cousin speech venue band rings",
    "the dog": "vet leash vaccination puppy kennel diet training walk shedding chip insurance park",
    "the novel": "plot narrator editor chapter villain dialogue publisher ending draft character agent title",
    "the tax return": "receipt deduction deadline accountant invoice pension audit refund expenses form bracket",
}
PEOPLE = ["Anna", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Liam"]
OPENINGS = (
    "{person} says that the {a} is {judgement}, because of the {b}.",
    "We moved the {a} to {day}, and the {b} follows {count} days later.",
    "I think the {a} costs about {count} euros with the {b}.",
    "Last {day} {person} looked at the {a} and found the {b} {judgement}.",
    "Compare the {a} with the {b} first, then ask {person} about {subject}.",
    "For {subject}, the {a} matters more than the {b}, unless {person} disagrees.",
    "There are {count} ways to handle the {a}, and the {b} rules out most of them.",
)
QUESTIONS = (
    "What did I say about the {a} of {subject}?",
    "How should I handle the {a} now that the {b} is {judgement}?",
    "Could {person} take care of the {a} before {day}?",
    "Is the {a} or the {b} more urgent for {subject}?",
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
JUDGEMENTS = [
    "too expensive",
    "fine as it is",
    "far too late",
    "surprisingly good",
    "still unclear",
    "not what we agreed",
]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of what a user says and of what is answered."""

    name: str
    prompt: float
    response: float


LMSYS = Lengths("LMSYS-Chat-1M", 69.5, 214.5)
WILDCHAT = Lengths("WildChat", 295.6, 441.3)


def talk(turns: int, lengths: Lengths, seed: int) -> Iterator[tuple[str, str]]:
    """What is said and answered, turn by turn; always the same for a seed."""
    chance = random.Random(seed)
    subject = chance.choice(list(SUBJECTS))
    for _ in range(turns):
        if chance.random() < 1 / 6:
            subject = chance.choice(list(SUBJECTS))
        question = _sentence(chance, subject, QUESTIONS)
        said = _text(chance, subject, _words(chance, lengths.prompt) - len(question.split()))
        yield f"{said} {question}".strip(), _text(chance, subject, max(_words(chance, lengths.response), 3))


def _words(chance: random.Random, mean: float) -> int:
    length = chance.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
    return round(min(length, LONGEST * mean) * WORDS_A_TOKEN)


def _text(chance: random.Random, subject: str, words: int) -> str:
    sentences: list[str] = []
    while words > 0:
        sentences.append(_sentence(chance, subject, OPENINGS))
        words -= len(sentences[-1].split())
    return " ".join(sentences)


def _sentence(chance: random.Random, subject: str, templates: tuple[str, ...]) -> str:
    a, b = chance.sample(SUBJECTS[subject].split(), 2)
    return chance.choice(templates).format(
        subject=subject,
        a=a,
        b=b,
        person=chance.choice(PEOPLE),
        day=chance.choice(DAYS),
        judgement=chance.choice(JUDGEMENTS),
        count=chance.randint(2, 900),
    )
