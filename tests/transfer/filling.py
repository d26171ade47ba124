"""Fills under way, whose upstream and disk the tests play."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mitmproxy import http

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.transfer.body import Body, BodyBroken
from addon.transfer.fill import Fill, first_request
from addon.transfer.stretch import Stretch

from .. import doubles
from ..doubles import FakeExchange, FakeSource

ORIGIN = "registry.example"
CONTENT = bytes(range(256)) * 40


class Filling:
    """A fill under way, whose upstream the test plays."""

    def __init__(self, fill: Fill, source: FakeSource, troubles: list[Exception]) -> None:
        self.fill = fill
        self.source = source
        self.troubles = troubles
        """What it told of why the store does not take the blob."""
        self.recorded = 0
        self.recording: Callable[[], None] = lambda: None
        """What writing down where it came from does."""
        self.exchange = FakeExchange()
        self.stretch: Stretch | None = None
        self.task: asyncio.Task[None] | None = None

    def begin(
        self, status: int = 200, headers: Mapping[str, str] | None = None, *, size: int | None = None
    ) -> "Filling":
        """Upstream's first answer: its head; `size` is what a manifest says."""
        start, _ = first_request(self.fill._ingest.kept, size, 1)
        response = http.Response.make(status)
        response.headers = http.Headers((), **(headers or {}))
        self.stretch = self.fill.begin(response, start, size)
        self.task = asyncio.create_task(self.fill.run(self.stretch, self.exchange.as_exchange, self._record))
        return self

    def _record(self) -> None:
        self.recorded += 1
        self.recording()

    def send(self, *pieces: bytes) -> None:
        assert self.stretch
        for piece in pieces:
            self.stretch.receive(piece)

    def put(self, *pieces: bytes) -> None:
        """As `send`, past mitmproxy's layers."""
        assert self.stretch
        for piece in pieces:
            left = piece
            while left:
                room = self.stretch.room()
                assert room
                count = min(len(room), len(left))
                room[:count] = left[:count]
                self.stretch.put(count)
                left = left[count:]

    async def over(self) -> None:
        """Wait until the fill has ended, in whichever way."""
        assert self.task
        await asyncio.wait_for(self.task, doubles.BOUND)

    async def cancel(self) -> None:
        """Let the proxy shut down."""
        assert self.task
        self.task.cancel()
        await self.over()

    async def until(self, received: int) -> None:
        """Wait until so many bytes are on disk."""
        async with asyncio.timeout(doubles.BOUND):
            while self.fill.received < received:
                await self.fill.change()


Start = Callable[..., Filling]


class Gate:
    """Holds up a method of a fill's ingest, in its thread, until it is opened."""

    def __init__(self, fill: Fill, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.fault: BaseException | None = None
        self._came = threading.Event()
        usual = getattr(fill._ingest, name)

        def gated(*args: object) -> object:
            self._came.set()
            assert self.open.wait(doubles.BOUND)
            try:
                return usual(*args)
            except BaseException as e:
                self.fault = e
                raise

        monkeypatch.setattr(fill._ingest, name, gated)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._came.wait, doubles.BOUND)


def sized(content: bytes) -> dict[str, str]:
    return {"Content_Length": str(len(content))}


def ranged(content: bytes, first: int, last: int) -> dict[str, str]:
    return {"Content_Range": f"bytes {first}-{last}/{len(content)}"}


def cut(content: bytes, *sizes: int) -> list[bytes]:
    """The content in pieces of these sizes, over and over."""
    pieces = []
    while content:
        for size in sizes:
            pieces.append(content[:size])
            content = content[size:]
    return pieces


async def read(body: Body) -> bytes:
    """All of a body, read as the stream reads it; closed behind it."""
    content = bytearray()
    try:
        async with asyncio.timeout(doubles.BOUND):
            while not body.ended:
                content += (piece := body.read())
                if not piece:
                    await body.wait()
    finally:
        body.close()
    return bytes(content)


async def broken(body: Body) -> tuple[bytes, str]:
    """What could be read of a body that broke, and why it did."""
    content = bytearray()
    try:
        async with asyncio.timeout(doubles.BOUND):
            while not body.ended:
                content += (piece := body.read())
                if not piece:
                    await body.wait()
    except BodyBroken as e:
        return bytes(content), str(e)
    finally:
        body.close()
    pytest.fail("it looks complete")


def ends(body: Body) -> bool:
    return body.ended


def stored(store: Store, digest: Digest) -> bytes | None:
    reader = store.open(digest)
    if reader is None:
        return None
    content = reader.read(0, reader.size)
    reader.close()
    return content


def ingests(store: Store) -> list[Path]:
    return list(store.layout.ingests.iterdir())
