"""Short stories from a small grammar: a child, an animal, one of six plots and a moral."""

from collections.abc import Callable
from dataclasses import dataclass

from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.vocabulary import (
    ANIMAL_LOOKS,
    ANIMAL_NAMES,
    BOY_NAMES,
    CHARACTERS,
    COLORS,
    FOODS,
    FRIENDLY_ANIMALS,
    GIRL_NAMES,
    PLACES,
    TOYS,
    WEATHERS,
    with_article,
)


@dataclass(frozen=True)
class Wishes:
    """What the reader asked to hear about; None leaves the choice to the teller."""

    name: str | None = None
    animal: str | None = None
    toy: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Cast:
    """Who and what one story is about."""

    child: str
    kind: str
    they: str
    their: str
    animal: str
    animal_name: str
    look: str
    toy: str
    color: str
    food: str
    place: str

    @property
    def there(self) -> str:
        return PLACES[self.place]

    @property
    def They(self) -> str:
        return self.they.capitalize()


Plot = tuple[list[str], str]


def _choose_cast(rng: CorpusRandom, wishes: Wishes) -> Cast:
    name = wishes.name or rng.favourite(GIRL_NAMES if rng.chance(0.65) else BOY_NAMES)
    kind, they, their = ("boy", "he", "his") if name in BOY_NAMES else ("girl", "she", "her")
    return Cast(
        child=name,
        kind=kind,
        they=they,
        their=their,
        animal=wishes.animal or rng.favourite(FRIENDLY_ANIMALS),
        animal_name=rng.favourite(ANIMAL_NAMES),
        look=rng.favourite(ANIMAL_LOOKS),
        toy=wishes.toy or rng.favourite(TOYS),
        color=rng.favourite(COLORS),
        food=rng.favourite(FOODS),
        place=wishes.place or rng.favourite(list(PLACES)),
    )


def _lost_toy(c: Cast) -> Plot:
    return [
        f"But {c.they} could not find the {c.toy} after lunch.",
        f"{c.child} looked and looked, but it was gone.",
        f"{c.They} was very sad.",
        f"Then {c.child} met {with_article(c.look)} {c.animal} named {c.animal_name}.",
        f'"Why are you sad?" asked the {c.animal}.',
        f'"I lost my {c.color} {c.toy}," said {c.child}.',
        f'"I can help you," said {c.animal_name}.',
        "They looked under a big tree, and there it was!",
        f'"Thank you, {c.animal_name}!" said {c.child}.',
    ], "a good friend always helps"


def _shared_food(c: Cast) -> Plot:
    return [
        f"{c.child} also had {with_article(c.food)} in {c.their} bag.",
        f"There {c.they} saw {with_article(c.look)} {c.animal} named {c.animal_name}.",
        f'"I am so hungry," said the {c.animal}.',
        f"{c.child} gave the {c.food} to {c.animal_name}.",
        f'"You are very kind," said the {c.animal}.',
        f"{c.animal_name} ate the {c.food} and smiled.",
    ], "it is nice to share"


def _stuck_animal(c: Cast) -> Plot:
    return [
        f"Suddenly, {c.child} heard a sound.",
        f"It was {with_article(c.look)} {c.animal} named {c.animal_name}, and it was stuck in the mud.",
        f'"Please help me!" said the {c.animal}.',
        f"{c.child} was scared, but {c.they} wanted to help.",
        f"{c.They} pulled and pulled, and the {c.animal} came out.",
        f'"You saved me!" said {c.animal_name}.',
    ], "being brave means helping others"


def _broken_toy(c: Cast) -> Plot:
    return [
        f"Here {c.they} found {with_article(c.look)} {c.animal} named {c.animal_name}.",
        f"They played with the {c.toy} together.",
        f"But {c.animal_name} jumped on the {c.toy} and it broke.",
        f'"I am sorry," said the {c.animal}.',
        f"{c.child} was sad, but {c.they} was not angry.",
        f'"It is okay," said {c.child}. "We can fix it."',
        f"They worked together and soon the {c.toy} was like new.",
    ], "it is good to say sorry"


def _sudden_rain(c: Cast) -> Plot:
    return [
        "Soon it began to rain, and the wind was cold.",
        f"{c.child} ran and ran, and {c.they} came to a small house.",
        f"In the house lived {with_article(c.look)} {c.animal} named {c.animal_name}.",
        f'"Come in and get warm," said the {c.animal}.',
        f"They ate {with_article(c.food)} and waited for the sun.",
        f'"Thank you for the {c.food}," said {c.child}.',
    ], "a kind heart is warm like the sun"


def _hidden_treasure(c: Cast) -> Plot:
    return [
        f"Near a rock, {c.they} found an old map.",
        f"{with_article(c.look).capitalize()} {c.animal} named {c.animal_name} knew the way.",
        f'"Follow me!" said the {c.animal}.',
        "They walked over a bridge and dug under a tree.",
        f"In a box they found {with_article(c.food)} and a shiny star.",
        f'"We found it together!" said {c.animal_name}.',
    ], "two friends can do more than one"


PLOTS: list[Callable[[Cast], Plot]] = [
    _lost_toy,
    _shared_food,
    _stuck_animal,
    _broken_toy,
    _sudden_rain,
    _hidden_treasure,
]


def tell_story(rng: CorpusRandom, wishes: Wishes | None = None) -> str:
    """A story of about ten to sixteen sentences in one paragraph, with everything in it that `wishes` names."""
    c = _choose_cast(rng, wishes or Wishes())
    opening = [
        f"Once upon a time, there was {with_article(rng.favourite(CHARACTERS))} {c.kind} named {c.child}.",
        rng.favourite(
            [
                f"{c.child} loved to play {c.there}.",
                f"{c.They} lived near the {c.place} with {c.their} family.",
                f"Every day, {c.child} went to the {c.place}.",
            ]
        ),
        f"One {rng.favourite(WEATHERS)} day, {c.child} took {c.their} {c.color} {c.toy} to the {c.place}.",
    ]
    events, moral = rng.favourite(PLOTS)(c)
    ending = rng.favourite(
        [
            f"From that day on, {c.child} and {c.animal_name} were best friends.",
            f"Then {c.child} went home and told {c.their} mom all about {c.animal_name}.",
        ]
    )
    return " ".join([*opening, *events, ending, f"{c.child} learned that {moral}.", "The end."])
