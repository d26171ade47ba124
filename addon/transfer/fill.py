"""A fill: one blob on its way from upstream into the store, while any number of clients read along.

A fill consists of stretches, runs of bytes that one connection brings each. A small blob, or one of unknown size, is
one stretch. A large one whose upstream answers ranges is cut into segments, which several connections fetch side by
side, always those next in turn. A stretch whose connection is lost goes on where it broke off, a bounded number of
times.

What arrives on the event loop is written and hashed by a thread (`addon.transfer.writing`). While too much waits for
that, upstream is not read: a slow disk slows the upstream down, and memory stays bounded.

A fill belongs to no client. It ends in the store, or in an error that breaks the bodies of all who read along; what it
had then is kept for the next attempt. Where it is the disk that fails, they go on without the store
(`addon.transfer.passing`). Its last byte is held back until length and digest are found right, so that nobody is given
a complete blob that is bad.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from mitmproxy import http

from addon.auth.tokens import TokenUnavailable
from addon.registry.digest import Digest
from addon.store.errors import DigestMismatch, NoRoom, StoreError
from addon.store.ingest import Ingest
from addon.transfer.followed import Followed, State
from addon.transfer.leftovers import drop, let_go, withdraw
from addon.transfer.source import Source
from addon.transfer.stretch import Nobody, Stretch, check_coding, checked
from addon.transfer.upstream import Exchange, Receiver, UpstreamError
from addon.transfer.writing import Writing

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger(__name__)

SEGMENT = 8 * 1024 * 1024
"""Bytes that one connection fetches before it turns to the next segment in turn."""
LARGE = 4 * SEGMENT
"""Bytes from which on a blob is fetched over several connections."""
ATTEMPTS = 6
"""How often in a row a stretch may fail without a byte of progress."""
SLOW_SECONDS = 5
"""How long the disk may take for what waits to be written, which is no more than `addon.transfer.writing.BOUND`."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 8.0
_REFUSALS = (401, 403, 404)
# Of all who joined, so many are remembered: the last.
_MOST_OTHERS = 4


class Fill(Followed):
    """One fill: fetches, writes, verifies, and gives its followers their bodies."""

    def __init__(
        self,
        ingest: Ingest,
        source: Source,
        executor: Executor,
        connections: int = 1,
        trouble: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Begin.

        Args:
            ingest: where the bytes go.
            source: where they come from.
            executor: the threads that write.
            connections: over how many connections they may come.
            trouble: is told why the store does not take them.
        """
        super().__init__(ingest.digest, ingest.reader())
        self._began = time.monotonic()
        self.resumed = 0
        """How many bytes it found from an earlier attempt."""
        self.exchanges: set[Exchange] = set()
        """The requests to upstream that are under way."""
        self.written: tuple[int, _Hash] | None = None
        """Where the disk failed: up to where the bytes are known, and the hash of them."""
        self._ingest = ingest
        self._source = source
        self._others: deque[Source] = deque(maxlen=_MOST_OTHERS)
        self._trouble = trouble
        self._connections = connections
        self._writing = Writing(ingest, executor, SLOW_SECONDS, self.changed)
        self._segmented = False
        self._next_segment = 0

    # The first answer, which decides about the fill's shape.

    def begin(self, response: http.Response, start: int, size: int | None) -> Stretch:
        """Take up the first answer; what is received goes to the stretch that is returned.

        Args:
            response: a 200, or a 206.
            start: from where it was asked for; see `first_request`.
            size: the blob's length in bytes, where a manifest told it.

        Raises:
            BlockingIOError: another process has been at it since it was asked for.
            UpstreamError: the answer is to another question.
            NoRoom: the blob is too large to be stored at all.
            OSError: the disk failed.
        """
        if start > self._ingest.kept:
            raise BlockingIOError("what an earlier attempt left has gone")
        if start < self._ingest.kept:
            self._ingest.go_on_from(start)
        announced = response.headers.get("content-length", "")
        if response.status_code == 206:
            span, self.size = checked(response, start, size)
            if self.size is None:
                raise UpstreamError("upstream did not say how long the blob is")
            stretch = Stretch(self, start, span.stop)
            self._next_segment = span.stop
            self._segmented = span.stop < self.size
        else:
            self.size = int(announced) if announced.isascii() and announced.isdigit() else size
            if self.size == 0 and self.digest != Digest.of(b"", self.digest.algorithm):
                # Of an empty body no byte can be held back: it would be whole before anybody knew that it is bad.
                raise UpstreamError("upstream sent an empty body, which is not the blob")
            if start and self.size is not None and start > self.size:
                self._ingest.go_on_from(0)
                start = 0
            stretch = Stretch(self, start, self.size)
            stretch.skip(start)
        if self.size is not None:
            self._ingest.announce(self.size)
        self.resumed = start
        self._writing.stretches.append(stretch)
        return stretch

    # The run.

    async def run(self, stretch: Stretch, exchange: Exchange, record: Callable[[], None]) -> None:
        """Take the blob in, to its commit or its end; never raises.

        Args:
            stretch: what `begin` returned.
            exchange: the exchange that brings it.
            record: writes down where the blob came from; called in the writing thread before the commit.
        """
        writer = asyncio.create_task(self._writing.run(), name=f"write {self.digest.short}")
        workers = [asyncio.create_task(self._fetch_all(stretch, exchange), name=f"receive {self.digest.short}")]
        if self._segmented:
            more = range(1, self._connections)
            workers += [asyncio.create_task(self._fetch_all(), name=f"receive {self.digest.short} {n}") for n in more]
        try:
            # The writer ends before the upstream does only where the disk failed.
            await _all_of(workers, writer)
            self._writing.end()
            await writer
            await self._writing.call(self._ingest.verify, self.size)
            self.state = State.VERIFIED
            self.changed()
            await self._writing.call(record)
            await self._writing.call(self._ingest.commit)
        except (UpstreamError, DigestMismatch) as e:
            self._break(str(e))
            await self._settle(*workers, writer)
            await self._leave(e)
        except (StoreError, OSError) as e:
            if self.state is State.RUNNING:
                # Those who read along go on from there, before anything else is waited for.
                self.written, self.interrupted = self._ingest.proven, True
            if not isinstance(e, NoRoom):
                self._trouble(e)
            # Trouble is told once, and not for each blob; that there is no room for this one is nothing else's.
            self._break(str(e), logging.WARNING if isinstance(e, NoRoom) else logging.INFO)
            await self._settle(*workers, writer)
            await self._leave(e)
            if isinstance(e, NoRoom):
                # What this one took is no longer in the way of the others.
                self._trouble(e)
        except asyncio.CancelledError:
            self._break("the proxy is shutting down")
            await self._settle(*workers, writer)
            await self._leave(None)
        finally:
            await self._settle(*workers, writer)
            drop(self._ingest)
            if self.state is State.RUNNING:
                # The task tells of the fault; those who read along must not wait for ever.
                self._break("of a fault of ours")
            self.changed()

    async def _fetch_all(self, stretch: Stretch | None = None, exchange: Exchange | None = None) -> None:
        """Bring one stretch after the other, as long as there are segments that nobody has taken."""
        while stretch is not None or (stretch := self._next()) is not None:
            await self._fetch(stretch, exchange)
            stretch = exchange = None

    def _next(self) -> Stretch | None:
        if not self._segmented or self.size is None or self._next_segment >= self.size:
            return None
        start = self._next_segment
        self._next_segment = min(start + SEGMENT, self.size)
        stretch = Stretch(self, start, self._next_segment)
        self._writing.stretches.append(stretch)
        return stretch

    async def _fetch(self, stretch: Stretch, exchange: Exchange | None) -> None:
        """Bring one stretch, over as many connections as it takes.

        Raises:
            UpstreamError: upstream will not give it.
        """
        failures = 0
        while True:
            before = stretch.position
            try:
                exchange = exchange or await self._ask(stretch)
                self.exchanges.add(exchange)
                await exchange.end()
                stretch.check()
            except UpstreamError as e:
                if stretch.arrived:
                    # However its connection ended: length and digest decide.
                    stretch.check()
                    return
                failures = 1 if stretch.position > before else failures + 1
                if failures >= ATTEMPTS or stretch.stop is None:
                    raise
                seconds = pause(failures)
                logger.info("blob %s: %s; going on in %.1f s", self.digest.short, e, seconds)
            else:
                return
            finally:
                if exchange is not None:
                    self.exchanges.discard(exchange)
                    await exchange.abort()
                exchange = None
            await asyncio.sleep(seconds)

    async def _ask(self, stretch: Stretch) -> Exchange:
        start, unfit = stretch.position, ""
        source = self._source

        def choose(response: http.Response) -> Receiver | None:
            nonlocal unfit
            if response.status_code not in (200, 206):
                return None
            try:
                self._check_again(response, start)
            except UpstreamError as e:
                unfit = str(e)
                return Nobody()
            stretch.skip(start if response.status_code == 200 else 0)
            return stretch

        try:
            stop = stretch.stop if self._segmented else None
            response, exchange = await source.get(start, stop, choose)
        except TokenUnavailable as e:
            raise UpstreamError(str(e)) from e
        if unfit or response.status_code not in (200, 206):
            await exchange.abort()
            if response.status_code in _REFUSALS and source is self._source and self._others:
                # That is what one client is told, and no reason to cut those who may.
                self._source = self._others.popleft()
            raise UpstreamError(unfit or f"{exchange.flow.request.host} answered {response.status_code}")
        return exchange

    def _check_again(self, response: http.Response, start: int) -> None:
        """See to it that a further answer goes on with the same blob.

        Raises:
            UpstreamError: it does not.
        """
        check_coding(response)
        if response.status_code == 206:
            checked(response, start, self.size)
        elif self._segmented:
            raise UpstreamError("upstream answers ranges no longer")
        elif (announced := response.headers.get("content-length", "")).isdigit() and int(announced) != self.size:
            raise UpstreamError(f"upstream now has {announced} bytes instead of {self.size}")

    async def _settle(self, *tasks: asyncio.Task[None]) -> None:
        """End what runs."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writing.settled()

    async def _leave(self, error: Exception | None) -> None:
        """Leave what there is to the next attempt, unless it is known to be bad."""
        await self._writing.call(withdraw if isinstance(error, DigestMismatch) else let_go, self._ingest)

    def drop(self) -> None:
        """Give up before `run`; what an earlier attempt left stays for the next."""
        self.state = State.BROKEN
        self.reason = "the request for it was given up"
        let_go(self._ingest)
        self.close()
        self.changed()

    def _break(self, reason: str, level: int = logging.WARNING) -> None:
        if self.state is State.RUNNING:
            self.state = State.BROKEN
        self.reason = reason
        self.changed()
        logger.log(level, "blob %s is not stored: %s", self.digest.short, reason)

    # See `addon.transfer.stretch.Whole`.

    def arrived(self, count: int) -> None:
        """See `Whole.arrived`."""
        self._writing.arrived(count)

    @property
    def full(self) -> bool:
        """See `Whole.full`."""
        return self._writing.full and self.state is State.RUNNING

    async def ready(self) -> None:
        """See `Whole.ready`."""
        while self.full:
            await self.change()

    # The followers' side.

    def joined(self, source: Source) -> None:
        """See `Followed.joined`."""
        self._others.append(source)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._began

    @property
    def received(self) -> int:
        """See `Followed.received`."""
        return self._ingest.offset


def first_request(kept: int, size: int | None, connections: int) -> tuple[int, int | None]:
    """Which bytes to ask for first: from where, behind what an earlier attempt left, up to where (None: to the end).

    Args:
        kept: how many bytes that left.
        size: the blob's length in bytes, where a manifest told it.
        connections: over how many connections it may be fetched.
    """
    start = kept
    if size is not None and start >= size:
        # All of it, or more: one byte is asked for at least, since only upstream can say whether it may be read.
        start = max(size - 1, 0)
    large = size is not None and size - start >= LARGE and connections > 1
    return start, start + SEGMENT if large else None


def pause(failures: int) -> float:
    """Seconds before the next attempt: twice as long each time, and never quite the same for two."""
    longest = min(_FIRST_PAUSE_SECONDS * (1 << failures - 1), _LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - it spreads load, and hides nothing


async def _all_of(workers: list[asyncio.Task[None]], writer: asyncio.Task[None]) -> None:
    """Wait for all workers; raise what the first to fail among them, or the writer, raised."""
    pending: set[asyncio.Task[None]] = set(workers)
    while pending:
        done, _ = await asyncio.wait([*pending, writer], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        pending -= done
