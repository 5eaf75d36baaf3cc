"""Common knowledge, greetings, copying, look-ups and stories on request."""

from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Exchange
from actors.builtin_model.training.stories import Wishes, tell_story
from actors.builtin_model.training.vocabulary import (
    CAPITAL_OF,
    COLOR_OF,
    COUNTED_THINGS,
    FRIENDLY_ANIMALS,
    MEMBERS_OF,
    OPPOSITE_OF,
    PLACES,
    PLAIN_WORDS,
    SOUND_OF,
    TOYS,
    any_name,
    any_phrase,
    made_up_word,
    with_article,
)

GREETINGS = [
    Exchange("Hello!", "Hello! How can I help you?"),
    Exchange("Hello", "Hello! How can I help you?"),
    Exchange("Hi!", "Hello! How can I help you?"),
    Exchange("hi", "Hello! How can I help you?"),
    Exchange("Good morning!", "Good morning! How can I help you?"),
    Exchange("How are you?", "I am fine, thank you!"),
    Exchange("Thank you!", "You are welcome!"),
    Exchange("Who are you?", "I am Tiny, a small language model made for testing."),
    Exchange("What is your name?", "I am Tiny, a small language model made for testing."),
    Exchange("What can you do?", "I can tell stories, do small sums, answer in JSON and call tools."),
    Exchange("Goodbye!", "Goodbye! Have a nice day!"),
]
UNKNOWN = "I am sorry, I do not know that."


def knowledge(rng: CorpusRandom) -> Exchange:
    """A color, a capital, an animal's sound or an opposite."""
    subject = rng.choice(["color", "capital", "capital", "sound", "opposite"])
    if subject == "color":
        thing = rng.choice(list(COLOR_OF))
        question = rng.choice([f"What color is the {thing}?", f"What is the color of the {thing}?"])
        return Exchange(question, f"The {thing} is {COLOR_OF[thing]}.")
    if subject == "capital":
        country = rng.choice(list(CAPITAL_OF))
        question = rng.choice(
            [
                f"What is the capital of {country}?",
                f"Tell me the capital of {country}.",
                f"Which city is the capital of {country}?",
            ]
        )
        return Exchange(question, f"The capital of {country} is {CAPITAL_OF[country]}.")
    if subject == "sound":
        animal = rng.choice(list(SOUND_OF))
        question = rng.choice(
            [f"What does {with_article(animal)} say?", f"What sound does {with_article(animal)} make?"]
        )
        return Exchange(question, f"{with_article(animal).capitalize()} says {SOUND_OF[animal]}.")
    pair = rng.choice(list(OPPOSITE_OF.items()))
    first, second = pair if rng.chance(0.5) else pair[::-1]
    return Exchange(f"What is the opposite of {first}?", f"The opposite of {first} is {second}.")


def greeting(rng: CorpusRandom) -> Exchange:
    """Small talk."""
    return rng.choice(GREETINGS)


def unknown(rng: CorpusRandom) -> Exchange:
    """A question about something that nobody knows, with a short way out."""
    thing = made_up_word(rng)
    question = rng.choice(
        [
            f"What is {with_article(thing)}?",
            f"Why is the {thing} {rng.choice(PLAIN_WORDS)}?",
            f"Who was {thing.capitalize()} {made_up_word(rng).capitalize()}?",
            f"Explain {thing} {any_phrase(rng, 3)}.",
        ]
    )
    return Exchange(question, UNKNOWN)


def echo(rng: CorpusRandom) -> Exchange:
    """A phrase said again, word for word."""
    phrase = any_phrase(rng)
    question = rng.choice([f"Repeat after me: {phrase}", f"Say: {phrase}", f"Echo: {phrase}", f"Repeat: {phrase}"])
    return Exchange(question, phrase)


def listing(rng: CorpusRandom) -> Exchange:
    """The first two or three members of a known kind."""
    kind = rng.choice(list(MEMBERS_OF))
    count, word = rng.choice([(2, "two"), (3, "three")])
    question = rng.choice([f"Name {word} {kind}.", f"List {word} {kind}."])
    return Exchange(question, ", ".join(MEMBERS_OF[kind][:count]))


def lookup(rng: CorpusRandom) -> Exchange:
    """One person's count out of a list of people that is given in the question."""
    people = list(dict.fromkeys(any_name(rng) for _ in range(rng.choice([2, 2, 3, 3, 4, 6, 10]))))
    facts = {name: (rng.randint(2, 20), rng.choice(COUNTED_THINGS)) for name in people}
    listed = " ".join(f"{name} has {count} {things}." for name, (count, things) in facts.items())
    name = rng.choice(people)
    count, things = facts[name]
    return Exchange(f"{listed} How many {things} does {name} have?", f"{name} has {count} {things}.")


def story_on_request(rng: CorpusRandom) -> Exchange:
    """A story about whatever the user names, or about anything."""
    wish = rng.choice(["nothing", "animal", "animal", "name", "both", "toy", "place"])
    if wish == "nothing":
        prompts = ["Tell me a story.", "Tell me a short story.", "Write a short story.", "Once upon a time"]
        return Exchange(rng.choice(prompts), tell_story(rng))
    wishes, subject = _wishes(rng, wish)
    question = rng.choice(
        [
            f"Tell me a story about {subject}.",
            f"Tell me a short story about {subject}.",
            f"Write a story about {subject}.",
        ]
    )
    return Exchange(question, tell_story(rng, wishes))


def _wishes(rng: CorpusRandom, wish: str) -> tuple[Wishes, str]:
    if wish == "toy":
        toy = rng.choice(TOYS)
        return Wishes(toy=toy), with_article(toy)
    if wish == "place":
        place = rng.choice(list(PLACES))
        return Wishes(place=place), f"the {place}"
    animal = rng.choice(FRIENDLY_ANIMALS)
    if wish == "animal":
        return Wishes(animal=animal), with_article(animal)
    name = any_name(rng)
    if wish == "name":
        return Wishes(name=name), name
    return Wishes(name=name, animal=animal), f"{name} and {with_article(animal)}"
