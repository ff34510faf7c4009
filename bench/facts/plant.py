"""What is said: facts to plant, and the talk around them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS = ("name", "preference", "decision", "detail", "open question")


@dataclass(frozen=True, slots=True)
class Planted:
    """A fact as it is said, the question that asks for it, and the words by which it is recognised."""

    kind: str
    sentence: str
    question: str
    telling: tuple[str, ...]

    def is_told_by(self, text: str) -> bool:
        """Whether all the telling words stand in a text, as words."""
        return all(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in self.telling)


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, and what is answered."""

    text: str
    reply: str


# Kind, sentence, question. Braces are filled from WORDS; the filled words are the telling ones.
Templates = Sequence[tuple[str, str, str]]

SENTENCES: Templates = (
    ("name", "My name is {person} {surname}.", "What is my name?"),
    ("name", "My sister is called {person}.", "What is my sister called?"),
    ("name", "Our dog is called {pet}.", "What is our dog called?"),
    ("name", "My boss's name is {person}.", "Who is my boss?"),
    ("preference", "I can't stand {food}.", "Which food do I dislike?"),
    ("preference", "My favourite colour is {colour}.", "What is my favourite colour?"),
    ("preference", "I prefer {drink} to coffee.", "What do I drink instead of coffee?"),
    ("preference", "I am allergic to {allergen}.", "What am I allergic to?"),
    ("decision", "We decided to paint the kitchen {colour}.", "Which colour will the kitchen be painted?"),
    ("decision", "I've decided to learn the {instrument}.", "Which instrument will I learn?"),
    ("decision", "We agreed to meet the builders on {day}.", "When do we meet the builders?"),
    ("decision", "Remember that the new sofa goes into the {room}.", "Where does the new sofa go?"),
    ("detail", "I live in {city}.", "Where do I live?"),
    ("detail", "My passport expires in {month} {year}.", "When does my passport expire?"),
    ("detail", "Our rent is {number} euros a month.", "How much is our rent?"),
    ("detail", "I work as a {job}.", "What is my job?"),
    ("open question", "I'm still not sure whether to sell the {thing}.", "What am I unsure about selling?"),
    ("open question", "We haven't decided yet who takes care of the {animal}.", "Who takes care of the animal?"),
    ("open question", "I still need to find out when the {shop} closes.", "Which closing time must I find out?"),
    ("open question", "I don't know yet which {course} course to take.", "Which course have I not chosen?"),
)

HELD_OUT: Templates = (
    ("name", "By the way, I'm {person}, nice to meet you.", "Who am I?"),
    ("name", "Everybody calls my grandmother {person}.", "What is my grandmother called?"),
    ("name", "We named the boat {pet} after an old song.", "What is the boat's name?"),
    ("name", "My neighbour {person} {surname} keeps bees.", "Who is the neighbour with the bees?"),
    ("preference", "Nothing beats {food} on a Sunday for me.", "What do I like to eat on Sundays?"),
    ("preference", "I always take the aisle seat when I fly to {city}.", "Which seat do I take on flights?"),
    ("preference", "For me it has to be {drink}, never coffee.", "What do I drink?"),
    ("preference", "My wife is crazy about {colour} tulips.", "Which tulips does my wife like?"),
    ("decision", "So it's settled, the party will be on {day}.", "When is the party?"),
    ("decision", "We'll go for the {colour} tiles in the bathroom.", "Which tiles did we choose?"),
    ("decision", "I signed up for the {instrument} lessons at last.", "Which lessons did I sign up for?"),
    ("decision", "Going forward, please answer me in {language}.", "In which language shall you answer?"),
    ("detail", "Our flat has {number} square metres.", "How large is our flat?"),
    ("detail", "I was born in {city} in {year}.", "Where and when was I born?"),
    ("detail", "My brother-in-law runs a {shop} near the station.", "What does my brother-in-law run?"),
    ("detail", "The contract with the {job} ends in {month}.", "When does the contract end?"),
    ("open question", "It's still unclear whether the {thing} can be repaired.", "What may not be repairable?"),
    ("open question", "I keep wondering where to put the {instrument}.", "What do I not know where to put?"),
    ("open question", "Nobody has told us when the {animal} will be vaccinated.", "Whose vaccination date is open?"),
    ("open question", "The {course} exam has no date so far.", "Which exam has no date?"),
)

WORDS: Mapping[str, Sequence[str]] = {
    "person": ("Ingrid", "Tobias", "Maren", "Yusuf", "Paolo", "Anneke", "Oskar", "Leila", "Bruno", "Katya", "Ravi"),
    "surname": ("Lindqvist", "Okafor", "Marchetti", "Dubois", "Novak", "Whitfield"),
    "pet": ("Biscuit", "Comet", "Pepper", "Juniper", "Domino", "Waffle"),
    "food": ("coriander", "lasagne", "pickled herring", "mushrooms", "gnocchi", "rhubarb"),
    "colour": ("teal", "ochre", "crimson", "ivory", "turquoise", "lilac"),
    "drink": ("rooibos", "peppermint tea", "matcha", "cocoa", "elderflower juice"),
    "allergen": ("peanuts", "penicillin", "shellfish", "hazelnuts", "latex"),
    "instrument": ("cello", "accordion", "oboe", "banjo", "clarinet"),
    "day": ("14 March", "3 November", "22 June", "9 September", "30 January"),
    "room": ("attic", "study", "conservatory", "guest room", "hall"),
    "city": ("Turin", "Gothenburg", "Ghent", "Tallinn", "Coimbra", "Leipzig", "Bergen"),
    "month": ("February", "April", "August", "October", "December"),
    "year": ("2031", "1984", "1979", "2029", "1991"),
    "number": ("743", "918", "1265", "866", "1042"),
    "job": ("bridge engineer", "beekeeper", "sound technician", "notary", "midwife"),
    "thing": ("caravan", "piano", "lawnmower", "motorbike", "rowing boat"),
    "animal": ("tortoise", "parrot", "pony", "ferret", "goats"),
    "shop": ("pharmacy", "garden centre", "bakery", "cobbler", "archive"),
    "course": ("pottery", "Portuguese", "welding", "statistics", "sailing"),
    "language": ("Portuguese", "Danish", "Swahili", "Catalan"),
}

_OPENINGS = (
    "Good morning!",
    "Thanks for the last answer, that helped a lot.",
    "Hm, let me think about that for a moment.",
    "The tram was late again and it rained all the way.",
    "I have been reading about {topic} all evening.",
    "That was a long day at last.",
)
_ASKED = (
    "Can you tell me something about {topic}?",
    "How does {topic} work in general?",
    "What would you recommend to a beginner who is interested in {topic}?",
    "Could you explain {topic} in three sentences?",
    "Why do so many people write about {topic} these days?",
    "Is it true that {topic} was invented in {place} in {past}?",
)
_CHATTER = (
    "It was a quiet weekend with a film about {topic}.",
    "Yesterday's lecture on {topic} went on for {few} hours.",
    "In {place} they opened a museum of {topic} with {few} rooms.",
    "I went to see {visitor} and we talked about {topic}.",
    "Somebody at the market sold books about {topic} for {few} euros.",
    "I thought that {topic} would be boring, but it was fun!",
    "The radio said that {place} had {few} storms in {past}.",
    "We had soup, and then a walk along the river near {place}.",
)
_REPLIES = (
    "There is a lot to say about {topic}; most of it began in {place} around {past}.",
    "Many people find {topic} hard at first, but {few} hours of practice go a long way.",
    "I see! Would you like to hear more about {topic}?",
    "That sounds nice. {topic} is often mentioned together with {place}.",
)
_TOPICS = (
    *("Roman roads", "sourdough bread", "tide tables", "typography", "volcanoes", "chess openings", "old maps"),
    *("watercolours", "compost", "lighthouses", "glaciers", "bird song", "steam engines", "comets", "crosswords"),
    *("wool dyeing", "fermentation", "harbour cranes", "sundials", "ice skating", "puppet theatre", "mosses"),
)
_PLACES = ("Porto", "Kyoto", "Quebec", "Valencia", "Trieste", "Cardiff", "Utrecht", "Graz")
_VISITORS = ("an old friend", "the neighbours", "a colleague", "the twins", "a cousin")


@dataclass(frozen=True, slots=True)
class Script:
    """A whole conversation and what was planted in it."""

    turns: tuple[Turn, ...]
    planted: tuple[Planted, ...]


def script(templates: Templates, seed: int, turns: int, late_every: int = 30) -> Script:
    """`turns` turns with a fact in each of the first 20, and one that is not asked for every `late_every` turns."""
    drawn = random.Random(seed)
    left = {name: drawn.sample(list(words), len(words)) for name, words in WORDS.items()}
    planted = [_filled(template, left, drawn) for template in drawn.sample(list(templates), len(templates))]
    # Late facts take the words that are left, so that no planted one is found by another's words.
    late = {number: _late(drawn, number) for number in range(len(planted) + late_every, turns, late_every)}
    said = dict(enumerate(fact.sentence for fact in planted)) | late
    return Script(tuple(_turn(drawn, said.get(number)) for number in range(turns)), tuple(planted))


def _filled(template: tuple[str, str, str], left: dict[str, list[str]], drawn: random.Random) -> Planted:
    kind, sentence, question = template
    telling = []
    for name, words in WORDS.items():
        if f"{{{name}}}" in sentence:
            word = left[name].pop() if left[name] else drawn.choice(list(words))
            sentence = sentence.replace(f"{{{name}}}", word)
            telling.append(word)
    return Planted(kind, sentence, question, tuple(telling))


_LATE = (
    "My cousin number {number} moved to a farm.",
    "I bought {number} tulip bulbs for the garden.",
    "I've decided to read {number} pages a week.",
    "Our club has {number} members now.",
    "I really like the song with {number} verses.",
    "I still need to find out the price of {number} tiles.",
)


def _late(drawn: random.Random, number: int) -> str:
    return drawn.choice(_LATE).format(number=2_000 + number)


def _turn(drawn: random.Random, fact: str | None) -> Turn:
    def fill(text: str) -> str:
        return text.format(
            topic=drawn.choice(_TOPICS),
            place=drawn.choice(_PLACES),
            past=drawn.randint(1500, 1950),
            few=drawn.randint(2, 60),
            visitor=drawn.choice(_VISITORS),
        )

    sentences = [fill(drawn.choice(_OPENINGS)), fill(drawn.choice(_CHATTER)), fill(drawn.choice(_ASKED))]
    if fact is not None:
        sentences[drawn.randrange(2)] = fact
    reply = " ".join(fill(drawn.choice(_REPLIES)) for _ in range(2))
    return Turn(" ".join(sentences), reply)
