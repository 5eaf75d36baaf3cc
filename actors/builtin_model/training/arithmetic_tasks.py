"""Sums, differences, products, comparisons and counting."""

from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Exchange


def addition(rng: CorpusRandom) -> Exchange:
    """A sum of two numbers up to 30, most of them up to 10."""
    top = rng.choice([10, 10, 20, 30])
    a, b = rng.randint(0, top), rng.randint(0, top)
    question = rng.choice(
        [
            f"What is {a}+{b}?",
            f"What is {a} + {b}?",
            f"What is {a} plus {b}?",
            f"Add {a} and {b}.",
            f"{a}+{b}=",
            f"{a} + {b}",
            f"How much is {a} + {b}?",
            f"Calculate {a} + {b}.",
            f"What is the sum of {a} and {b}?",
        ]
    )
    return Exchange(question, f"{a} + {b} = {a + b}")


def subtraction(rng: CorpusRandom) -> Exchange:
    """A difference of two numbers up to 20 that is not negative."""
    a = rng.randint(0, rng.choice([10, 20]))
    b = rng.randint(0, a)
    question = rng.choice(
        [
            f"What is {a}-{b}?",
            f"What is {a} - {b}?",
            f"What is {a} minus {b}?",
            f"Subtract {b} from {a}.",
            f"{a}-{b}=",
            f"Calculate {a} - {b}.",
        ]
    )
    return Exchange(question, f"{a} - {b} = {a - b}")


def multiplication(rng: CorpusRandom) -> Exchange:
    """A product from the table up to 10 times 10."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice(
        [
            f"What is {a}*{b}?",
            f"What is {a} * {b}?",
            f"What is {a} times {b}?",
            f"Multiply {a} and {b}.",
            f"Calculate {a} * {b}.",
        ]
    )
    return Exchange(question, f"{a} * {b} = {a * b}")


def comparison(rng: CorpusRandom) -> Exchange:
    """The bigger or the smaller of two numbers up to 20."""
    a, b = rng.sample(range(21), 2)
    big, small = max(a, b), min(a, b)
    if rng.chance(0.5):
        question = rng.choice([f"Which is bigger, {a} or {b}?", f"Which number is bigger: {a} or {b}?"])
        return Exchange(question, f"{big} is bigger than {small}.")
    question = rng.choice([f"Which is smaller, {a} or {b}?", f"Which number is smaller: {a} or {b}?"])
    return Exchange(question, f"{small} is smaller than {big}.")


def counting(rng: CorpusRandom) -> Exchange:
    """The numbers from a first to a last one; sometimes a long run, for long greedy answers."""
    first = rng.choice([0, 1, 1, 1, 1, 2, rng.randint(3, 20)])
    last = first + (rng.randint(15, 60) if rng.chance(0.3) else rng.randint(2, 12))
    question = rng.choice([f"Count from {first} to {last}.", f"Please count from {first} to {last}."])
    return Exchange(question, ", ".join(str(number) for number in range(first, last + 1)))
