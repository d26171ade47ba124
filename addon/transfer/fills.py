"""Which fills are under way: each blob is fetched once, whoever asks.

Two clients with the same credential that miss the same blob share one request from its first byte on. Clients with
different credentials each ask upstream for themselves, since a refusal of one says nothing about the other; as soon as
one of them gets the blob, the others let theirs go and follow.
"""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mitmproxy import connection, http

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.transfer.fill import Fill
from addon.transfer.upstream import Exchange, Receiver, Upstream

_WRITERS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob of a repository of a registry, and the credential with which it is wanted."""

    registry: str
    repository: str
    digest: Digest
    credential: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A fill, and whether this request is the one that started it."""

    fill: Fill
    started: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Upstream will not give the blob: its answer, whole."""

    response: http.Response


class NotStorable(Exception):
    """The blob can be had, but not stored; the message says why."""


class Fills:
    """The fills under way."""

    def __init__(self, store: Store, upstream: Upstream) -> None:
        self._store = store
        self._upstream = upstream
        self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="pulltap-writer")
        self._active: dict[tuple[str, Digest], Fill] = {}
        self._starting: dict[Wanted, asyncio.Task[Fill | Refused]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def active(self, registry: str, digest: Digest) -> Fill | None:
        """The fill of this blob that is under way, if one is."""
        return self._active.get((registry, digest))

    def repositories(self, registry: str, digest: Digest) -> Collection[str]:
        """Where upstream gave this blob, or confirmed it, since its fill began."""
        fill = self._active.get((registry, digest))
        return fill.repositories if fill else ()

    async def start(
        self, wanted: Wanted, request: http.Request, client: connection.Client, size: int | None
    ) -> Joined | Refused:
        """Ask upstream for a blob and begin to store it, or share what the same credential has begun.

        Args:
            wanted: the blob.
            request: the request for it, as it is to go upstream.
            client: on whose behalf.
            size: the blob's length in bytes, where a manifest told it.

        Raises:
            UpstreamError: no answer came.
            NotStorable: the answer cannot be stored; nothing of it was taken.
        """
        task = self._starting.get(wanted)
        started = task is None
        if task is None:
            task = asyncio.create_task(self._start(wanted, request, client, size), name=f"start {wanted.digest.short}")
            self._starting[wanted] = task
            task.add_done_callback(lambda task: self._begun(wanted, task))
        outcome = await asyncio.shield(task)
        return outcome if isinstance(outcome, Refused) else Joined(outcome, started)

    def _begun(self, wanted: Wanted, task: asyncio.Task[Fill | Refused]) -> None:
        del self._starting[wanted]
        if not task.cancelled():
            # Seen, whether or not somebody still waits for it.
            task.exception()

    async def _start(
        self, wanted: Wanted, request: http.Request, client: connection.Client, size: int | None
    ) -> Fill | Refused:
        key = (wanted.registry, wanted.digest)
        fill: Fill | None = None
        unfit = ""

        def choose(response: http.Response) -> Receiver | None:
            nonlocal fill, unfit
            if response.status_code != 200:
                return None
            if key in self._active:
                unfit = "is being filled by another request"
            elif response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
                unfit = "came content-encoded"
            else:
                try:
                    fill = Fill(self._store.ingest(wanted.digest), _length(response, size), self._executor)
                except OSError as e:
                    unfit = f"cannot be stored: {e.strerror or e}"
                else:
                    self._active[key] = fill
                    fill.repositories.add(wanted.repository)
            return fill or _Nobody()

        purpose = f"pulltap: fill {wanted.repository} {wanted.digest.short}"
        try:
            response, exchange = await self._upstream.fetch(request, client, purpose, choose)
        except BaseException:
            if fill is not None:
                del self._active[key]
                fill.drop()
            raise
        if fill is not None:
            self._run(key, fill, exchange)
            return fill
        await exchange.abort()
        if unfit:
            if active := self._active.get(key):
                return active
            raise NotStorable(f"blob {wanted.digest.short} {unfit}")
        return Refused(response)

    def _run(self, key: tuple[str, Digest], fill: Fill, exchange: Exchange) -> None:
        def record() -> None:
            for repository in list(fill.repositories):
                self._store.provenance.record(key[0], repository, fill.digest)

        def over(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            del self._active[key]

        task = asyncio.create_task(fill.run(exchange, record), name=f"fill {fill.digest.short}")
        self._running.add(task)
        task.add_done_callback(over)

    async def close(self) -> None:
        """Break what is under way, and wait until its files are gone."""
        running = [*self._running, *self._starting.values()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._executor.shutdown()


class _Nobody:
    """Receives the body of an answer that is about to be dropped."""

    def receive(self, chunk: bytes) -> None:
        """See `Receiver.receive`."""

    async def ready(self) -> None:
        """See `Receiver.ready`: never; the connection is closed instead."""
        await asyncio.Event().wait()


def _length(response: http.Response, size: int | None) -> int | None:
    announced = response.headers.get("content-length", "")
    return int(announced) if announced.isascii() and announced.isdigit() else size
