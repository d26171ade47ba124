"""A token service without a network."""

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from addon.auth.tokens import TokenAnswer, TokenQuestion


class Service:
    """Answers with a new token each time, unless it was given something else to say."""

    def __init__(self) -> None:
        self.questions: list[TokenQuestion] = []
        self.answers: list[TokenAnswer | Exception] = []
        """What to say next, before new tokens."""
        self.lifetime: object = 300
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        """Cleared, questions wait."""
        self.open.set()

    async def fetch(self, question: TokenQuestion) -> TokenAnswer:
        self.questions.append(question)
        number = len(self.questions)
        self.asked.set()
        await self.open.wait()
        if not self.answers:
            return answer({"token": f"token-{number}", "expires_in": self.lifetime})
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    @property
    def queries(self) -> Sequence[list[tuple[str, str]]]:
        """The parameters of each question so far."""
        return [parse_qsl(urlsplit(q.url).query, keep_blank_values=True) for q in self.questions]


def answer(content: object, status: int = 200, retry_after: str | None = None) -> TokenAnswer:
    return TokenAnswer(status, json.dumps(content).encode(), retry_after)


async def settle() -> None:
    """Let all tasks go on until they wait for something that has not happened."""
    for _ in range(10):
        await asyncio.sleep(0)
