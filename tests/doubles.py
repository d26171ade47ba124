"""What the in-process tests put in the place of clocks, bodies and upstream, and how they count what is left over."""

import asyncio
import gc
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from mitmproxy import connection, ctx, http
from mitmproxy.addons import proxyserver
from mitmproxy.test import taddons, tflow

from addon.registry.digest import Digest
from addon.settings import Settings, parse
from addon.transfer.addresses import Reach
from addon.transfer.body import Body, BodyBroken
from addon.transfer.upstream import Choose, Exchange, Receiver, UpstreamError, collect

BOUND = 20.0
"""Seconds after which something that should have happened has failed."""
HUB = "registry-1.docker.io"


def digest_of(content: bytes, algorithm: str = "sha256") -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


def settings(**changes: object) -> Settings:
    """The settings as they are where nobody says otherwise, but for `changes` of the options of `parse`."""
    usual = {
        "hosts": [HUB, "ghcr.io"],
        "store": "",
        "max_size": 1 << 30,
        "min_free": 0,
        "access": "check",
        "docker_config": "",
    }
    usual |= {"max_fills": 8, "fill_connections": 4, "access_grace": 3600, "clients": [], "registries": {}}
    return parse(**{**usual, **changes})  # type: ignore[arg-type]


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pieces(Body):
    """A `Body` of the given pieces. An empty one stands for a wait; an exception is raised where it stands."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._left = list(pieces)
        self.taken: list[bytes] = []
        self.closed = 0
        self.ready = asyncio.Event()
        """What `wait` waits for; set from the start."""
        self.ready.set()

    @property
    def ended(self) -> bool:
        return not self._left

    def read(self) -> bytes:
        assert not self.closed
        if not self._left:
            return b""
        if isinstance(self._left[0], BodyBroken):
            return b""
        piece = self._left.pop(0)
        if isinstance(piece, Exception):
            raise piece
        self.taken.append(piece)
        return piece

    async def wait(self) -> None:
        await self.ready.wait()
        if self._left and isinstance(self._left[0], BodyBroken):
            raise self._left[0]

    def close(self) -> None:
        self.closed += 1


class FakeExchange:
    """An exchange whose end the test decides."""

    def __init__(self, request: http.Request | None = None) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.aborted = 0
        self.reach = Reach.ANYWHERE
        self.flow = tflow.tflow()
        self.flow.comment = "pulltap: fill library/alpine"
        if request is not None:
            self.flow.request = request
        self.request = self.flow.request

    def finish(self, error: str = "") -> None:
        """Upstream's body ends: whole, or by this error."""
        if error:
            self.over.set_exception(UpstreamError(error))
            self.over.exception()
        else:
            self.over.set_result(None)

    async def end(self) -> None:
        assert not self.aborted
        await asyncio.shield(self.over)

    async def abort(self) -> None:
        self.aborted += 1

    @property
    def as_exchange(self) -> Exchange:
        return cast(Exchange, self)


@dataclass
class Question:
    """A request that reached the fake upstream, and its answer, which the test gives."""

    request: http.Request
    purpose: str
    choose: Choose
    exchange: FakeExchange
    answered: asyncio.Future[http.Response]
    reach: Reach
    """To which addresses it may connect."""
    receiver: Receiver | None = None

    def __str__(self) -> str:
        bytes_asked = self.request.headers.get("range", "").removeprefix("bytes=")
        return f"{self.request.method} {self.request.path} {bytes_asked}".rstrip()

    def answer(self, status: int, content: bytes = b"", /, **headers: str) -> None:
        """The whole answer; a body that is received goes to its receiver at once, and ends."""
        self.begin(status, content, **headers)
        if self.receiver is not None:
            self.send(content)
            self.exchange.finish()

    def begin(self, status: int, content: bytes = b"", /, **headers: str) -> None:
        """The head of an answer; `content` is its body only where nobody receives it."""
        response = http.Response.make(status, content)
        response.headers = http.Headers((), **headers)
        self.receiver = self.choose(response)
        self.answered.set_result(response)

    def send(self, *pieces: bytes) -> None:
        """Some of a body that is received."""
        assert self.receiver is not None
        for piece in pieces:
            self.receiver.receive(piece)

    def finish(self, error: str = "") -> None:
        """See `FakeExchange.finish`."""
        self.exchange.finish(error)

    def fail(self, error: UpstreamError) -> None:
        self.answered.set_exception(error)


@dataclass
class FakeUpstream:
    """In the place of `Upstream`: each question waits until the test answers it, or is answered by `reply`."""

    reply: Callable[[Question], None] | None = None
    asked: list[Question] = field(default_factory=list)
    own: list[http.HTTPFlow] = field(default_factory=list)
    """The flows that are its own."""
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def owns(self, flow: http.HTTPFlow) -> bool:
        return flow in self.own

    async def ask(
        self,
        request: http.Request,
        _client: connection.Client,
        purpose: str,
        choose: Choose = collect,
        reach: Reach = Reach.ANYWHERE,
    ) -> tuple[http.Response, Exchange]:
        answered = asyncio.get_running_loop().create_future()
        question = Question(request, purpose, choose, FakeExchange(request), answered, reach)
        self.asked.append(question)
        self._came.set()
        if self.reply is not None:
            self.reply(question)
        # Nothing on a network comes within the same turn of the loop.
        await asyncio.sleep(0)
        return await question.answered, question.exchange.as_exchange

    fetch = ask

    async def question(self, number: int = 0) -> Question:
        """Wait for the question of this number, counted from 0."""
        async with asyncio.timeout(BOUND):
            while len(self.asked) <= number:
                self._came.clear()
                await self._came.wait()
        return self.asked[number]


class FakeSource(FakeUpstream):
    """In the place of a `Source`: its questions are those for bytes."""

    async def get(self, start: int, stop: int | None, choose: Choose) -> tuple[http.Response, Exchange]:
        request = http.Request.make("GET", "https://registry.example/blob")
        if start or stop is not None:
            request.headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        return await self.ask(request, tflow.tclient_conn(), "fill", choose)


def request_flow(url: str, method: str = "GET", **headers: str) -> http.HTTPFlow:
    """A live flow of a regular proxy's client."""
    flow = tflow.tflow()
    flow.request = http.Request.make(method, url)
    flow.request.headers = http.Headers((), **headers)
    flow.request.headers.setdefault("Host", flow.request.host)
    flow.client_conn.sni = flow.request.host if flow.request.scheme == "https" else None
    flow.live = True
    return flow


@contextmanager
def mitmproxy_with(*addons: object, **options: object) -> Iterator[taddons.context]:
    """A context of mitmproxy's, with its core, the proxy server's options, and these addons; `ctx` is set in it."""
    with taddons.context(proxyserver.Proxyserver(), *addons) as context:
        context.options.update(**options)
        try:
            yield context
        finally:
            context.master._legacy_log_events.uninstall()
            assert ctx.master is context.master


@asynccontextmanager
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Tasks start eagerly, as under mitmproxy; at the end no task and no open file is left behind."""
    loop = asyncio.get_running_loop()
    gc.collect()
    usual, files, tasks = loop.get_task_factory(), open_files(), asyncio.all_tasks()
    loop.set_task_factory(asyncio.eager_task_factory)
    yield
    loop.set_task_factory(usual)
    ours = {asyncio.current_task(), *tasks}
    if left := asyncio.all_tasks() - ours:
        await asyncio.wait(left, timeout=BOUND)
    assert not asyncio.all_tasks() - ours
    # A socket is closed a few turns of the loop after its transport, and some readers with what refers to them.
    for _ in itertools.takewhile(lambda turn: turn < 100 and open_files() != files, itertools.count()):
        await asyncio.sleep(0)
    if open_files() != files:
        # pytest keeps what was logged, and with an exception the frames that it went through.
        caplog.get_records("call").clear()
        gc.collect()
    assert open_files() == files
