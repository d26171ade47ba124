"""Images in a registry within the process, and what pulls them."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.ui.warming import Part, Warmed, WarmError, Warming

from ..doubles import BOUND, FakeUpstream, Question, digest_of
from ..hub import Hub
from ..store.pulled import manifest

AMD64, ARM64 = "linux/amd64", "linux/arm64"
NAME, REPOSITORY = "alpine", "library/alpine"

Start = Callable[..., Parts]
"""Makes parts with other settings than the usual ones."""


@dataclass
class SlowHub(Hub):
    """A hub whose answers the test may give itself."""

    _kept: set[str] = field(default_factory=set)
    _held: asyncio.Queue[Question] = field(default_factory=asyncio.Queue)

    def hold(self, *blobs: bytes) -> None:
        """Answer no question for these; see `held`."""
        self._kept |= {str(digest_of(blob)) for blob in blobs}

    def release(self) -> None:
        """Answer all that comes from now on."""
        self._kept.clear()

    async def held(self) -> Question:
        """Wait for the next question that is to be answered."""
        return await asyncio.wait_for(self._held.get(), BOUND)

    def reply(self, question: Question) -> None:
        """See `Hub.reply`."""
        if question.request.path.rpartition("/")[2] in self._kept:
            self._held.put_nowait(question)
        else:
            super().reply(question)


def image(hub: Hub, tag: str, *layers: bytes, config: bytes = b"{}", repository: str = REPOSITORY) -> Digest:
    """Push an image of one platform, with its blobs; the digest of its manifest."""
    for blob in (config, *layers):
        hub.push(repository, blob)
    return hub.tag(repository, tag, manifest(*layers, config=config))


def stored(parts: Parts, digest: Digest) -> bool:
    """Whether this is in the store."""
    return parts.store.path(digest).exists()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what an event tells to nobody else."""
    async with asyncio.timeout(BOUND):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0)


def asked(what: str, *blobs: bytes) -> list[str]:
    """The questions for these blobs, as `Warm.asked` tells them."""
    return sorted(f"{what} {digest_of(blob)}" for blob in blobs)


class Warm:
    """Pulls images."""

    def __init__(self, hub: Hub, parts: Parts) -> None:
        self.hub = hub
        self.parts = parts

    async def __call__(self, name: str, *platforms: str, watch: Callable[[Part], None] = lambda _: None) -> Warmed:
        """Pull an image for these platforms, or for the usual one."""
        warming = Warming(self.parts, Reference.parse(name))
        return await asyncio.wait_for(warming.run(platforms or (AMD64,), watch), BOUND)

    async def failing(self, name: str, *platforms: str) -> str:
        """Try to pull an image; why that cannot be."""
        with pytest.raises(WarmError) as raised:
            await self(name, *platforms)
        return str(raised.value)

    def asked(self) -> list[str]:
        """What upstream was asked since the last time; a GET is not named as such, and blobs are sorted."""
        upstream = self.parts.upstream
        assert isinstance(upstream, FakeUpstream)
        questions, upstream.asked[:] = upstream.asked[:], []
        told = [_told(question) for question in questions]
        # Blobs are asked for side by side.
        return [line for line in told if "blobs " not in line] + sorted(line for line in told if "blobs " in line)


def _told(question: Question) -> str:
    request = question.request
    if request.path.startswith("/token"):
        return "token"
    *_, kind, reference = request.path.split("/")
    return f"{kind} {reference}" if request.method == "GET" else f"{request.method} {kind} {reference}"
