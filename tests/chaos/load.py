"""Users, side by side: each takes the next question, asks it, and has the answer judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.answers import Answer
from tests.chaos.asking import Asker
from tests.chaos.books import Books
from tests.chaos.plan import ChaosPlan
from tests.chaos.questions import Question

UNWIND_S = 10.0
"""For what was cancelled because it had no end."""


async def ask_all(plan: ChaosPlan, questions: Iterator[Question], asker: Asker, books: Books) -> None:
    """Until there are no more questions. Every request ends, or is told to have no end."""
    async with asyncio.TaskGroup() as users:
        for _ in range(plan.users):
            users.create_task(_use(plan, questions, asker, books))


async def _use(plan: ChaosPlan, questions: Iterator[Question], asker: Asker, books: Books) -> None:
    for question in questions:
        answer = Answer(question.n)
        task = asyncio.create_task(_note(asker, question, answer))
        await asyncio.wait({task}, timeout=plan.end_within_s)
        if task.done():
            books.judge(question, answer)
            continue
        books.endless(question, answer, plan.end_within_s)
        task.cancel()
        await asyncio.wait({task}, timeout=UNWIND_S)


async def _note(asker: Asker, question: Question, answer: Answer) -> None:
    """Note how a request ended instead of raising it: a failure must not end the load."""
    try:
        await asker.ask(question, answer)
    except Exception as error:  # noqa: BLE001 - judged in the books
        answer.error = error
    answer.ended_s = asyncio.get_running_loop().time()
