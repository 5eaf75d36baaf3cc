"""The words and facts that the corpus is made of."""

from actors.builtin_model.training.corpus_random import CorpusRandom

GIRL_NAMES = ["Lily", "Mia", "Anna", "Emma", "Rosa", "Nora", "Ella", "Zoe", "Ruby", "Ivy", "Clara", "Luna"]
BOY_NAMES = ["Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Finn", "Tim", "Noah", "Oscar", "Hugo", "Theo"]
NAMES = GIRL_NAMES + BOY_NAMES
AGES = list(range(3, 100))
CHARACTERS = ["little", "happy", "kind", "brave", "curious", "shy", "clever", "cheerful", "quiet", "funny"]
FRIENDLY_ANIMALS = ["dog", "cat", "rabbit", "bird", "fox", "frog", "duck", "bear", "mouse", "turtle", "horse", "owl"]
ANIMAL_NAMES = ["Spot", "Fluffy", "Biscuit", "Pepper", "Coco", "Sunny", "Pip", "Daisy", "Rex", "Honey"]
ANIMAL_LOOKS = ["small", "old", "tiny", "big", "gentle", "sleepy"]
PLACES = {
    "park": "in the park",
    "forest": "in the forest",
    "garden": "in the garden",
    "beach": "at the beach",
    "farm": "on the farm",
    "school": "at school",
    "lake": "by the lake",
    "hill": "on the hill",
}
TOYS = ["ball", "kite", "doll", "boat", "drum", "book", "hat", "train", "lamp", "bell"]
COLORS = ["red", "blue", "green", "yellow", "purple", "orange", "pink", "white"]
FOODS = ["apple", "cake", "cookie", "pear", "sandwich", "muffin", "banana", "pie"]
WEATHERS = ["sunny", "rainy", "windy", "cloudy", "snowy", "warm"]
COUNTED_THINGS = ["apples", "books", "balls", "cookies", "stars", "coins"]

COLOR_OF = {
    "sky": "blue",
    "grass": "green",
    "sun": "yellow",
    "snow": "white",
    "banana": "yellow",
    "tomato": "red",
    "night": "black",
    "pumpkin": "orange",
    "ocean": "blue",
    "strawberry": "red",
}
CAPITAL_OF = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "England": "London",
    "Germany": "Berlin",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Canada": "Ottawa",
    "China": "Beijing",
    "Peru": "Lima",
}
SOUND_OF = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "lion": "roar",
    "owl": "hoot",
    "frog": "ribbit",
}
OPPOSITE_OF = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "day": "night",
    "happy": "sad",
    "fast": "slow",
    "open": "closed",
    "old": "new",
}
MEMBERS_OF = {
    "fruits": ["apple", "banana", "pear", "orange"],
    "colors": ["red", "blue", "green", "yellow"],
    "animals": ["dog", "cat", "rabbit", "fox"],
    "toys": ["ball", "kite", "doll", "boat"],
}
CITIES = list(CAPITAL_OF.values())
LITTLE_WORDS = ["the", "a", "and", "is", "it", "one", "two", "three", "this", "of", "in", "my", "we", "can", "see"]
TEST_WORDS = ["hello", "world", "good", "morning", "test"]
PLAIN_WORDS = sorted(
    {*CHARACTERS, *FRIENDLY_ANIMALS, *PLACES, *TOYS, *COLORS, *FOODS, *SOUND_OF.values(), *OPPOSITE_OF}
    | {*LITTLE_WORDS, *TEST_WORDS}
)

_VOWELS = "aeiou"
_SYLLABLE_BEGINS: list[str] = [
    *"bcdfghjklmnprstvwyz",
    "br",
    "ch",
    "cl",
    "dr",
    "gr",
    "kr",
    "ph",
    "sh",
    "sl",
    "st",
    "th",
    "tr",
    "",
]
_SYLLABLE_CENTRES: list[str] = [*_VOWELS, *_VOWELS, "ee", "ia", "oo", "ai"]
_WORD_ENDS: list[str] = ["", "", *"dklmnrstxy", "ck", "ll", "nd", "rt", "sh"]


def with_article(noun: str) -> str:
    """`noun` with the indefinite article before it."""
    return f"{'an' if noun[0] in _VOWELS else 'a'} {noun}"


def made_up_word(rng: CorpusRandom) -> str:
    """A pronounceable word that means nothing: copying it cannot be learned by heart."""
    syllables = [rng.choice(_SYLLABLE_BEGINS) + rng.choice(_SYLLABLE_CENTRES) for _ in range(rng.randint(1, 3))]
    return "".join(syllables) + rng.choice(_WORD_ENDS)


def any_name(rng: CorpusRandom) -> str:
    """A known first name or, two times in five, a made-up one."""
    return made_up_word(rng).capitalize() if rng.chance(0.4) else rng.choice(NAMES)


def any_city(rng: CorpusRandom) -> str:
    """A known city or, one time in three, a made-up one."""
    return made_up_word(rng).capitalize() if rng.chance(0.35) else rng.choice(CITIES)


def any_phrase(rng: CorpusRandom, longest: int = 6) -> str:
    """One to `longest` words and numbers, some of the words made up."""
    words = []
    for _ in range(rng.randint(1, longest)):
        if rng.chance(0.1):
            words.append(str(rng.randint(0, 99)))
        else:
            words.append(made_up_word(rng) if rng.chance(0.35) else rng.choice(PLAIN_WORDS))
    return " ".join(words)
