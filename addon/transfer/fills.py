"""Which fills are under way: each blob is fetched once, whoever asks.

Two clients with the same credential that miss the same blob share one request from its first byte on. Clients with
different credentials, or in different repositories, each ask upstream for themselves, since neither a refusal nor a
permission of one says anything about the other; those to whom upstream gives it as well let theirs go and follow the
first. That holds for several processes with the same store as well: a blob's ingest is claimed when upstream has begun
to give it, and whoever comes second follows (`addon.transfer.remote`).

Only so many fills run at once. Those that wait get their turn by repository, so that an image of a hundred layers does
not hold up one of three.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mitmproxy import ctx, http
from mitmproxy.hooks import UpdateHook
from mitmproxy.utils import human

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import NoRoom, StoreError
from addon.store.tally import Count
from addon.transfer.fill import Fill, first_request
from addon.transfer.followed import Followed, State
from addon.transfer.leftovers import let_go
from addon.transfer.remote import RemoteFill
from addon.transfer.source import Source
from addon.transfer.stretch import Nobody, Stretch, check_coding
from addon.transfer.trouble import Trouble, told
from addon.transfer.turns import FairLimit
from addon.transfer.upstream import Choose, Exchange, Receiver, UpstreamError
from addon.transfer.writing import DiskTrouble

logger = logging.getLogger(__name__)

STUCK_SECONDS = 5
"""How long the disk may take for an empty file."""
_WRITERS = 8
_PROGRESS_SECONDS = 1.0
_PROBE_BYTES = 1024 * 1024


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


class Overtaken(Exception):
    """Another request, or another process, has begun to fill it. Whether this one may read along is to be asked."""


class Fills:
    """The fills under way."""

    def __init__(self, store: Store, *, most: int, connections: int) -> None:
        """Begin with none.

        Args:
            store: where they end.
            most: how many may run at once.
            connections: over how many connections a large blob is fetched.
        """
        self._store = store
        self._limit = FairLimit(most)
        self._connections = connections
        self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="pulltap-writer")
        self.trouble = Trouble(self._probe)
        self._active: dict[tuple[str, Digest], Fill] = {}
        self._remote: dict[tuple[str, Digest], RemoteFill] = {}
        self._starting: dict[Wanted, asyncio.Task[Fill | Refused]] = {}
        self._running: dict[asyncio.Task[None], Fill] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._progress: asyncio.Task[None] | None = None

    def active(self, registry: str, digest: Digest) -> Fill | None:
        """The fill of this blob that is under way in this process, if one is."""
        return self._active.get((registry, digest))

    def elsewhere(self, registry: str, digest: Digest) -> Followed | None:
        """The fill of this blob that is under way in another process, if one is.

        Raises:
            OSError: the store cannot be read, or too many files are open.
        """
        key = (registry, digest)
        remote = self._remote.get(key)
        if remote is not None and remote.state is State.RUNNING:
            return remote
        following = self._store.following(digest, registry)
        if following is None:
            return None
        remote = self._remote[key] = RemoteFill(digest, following, self._store)
        task = asyncio.create_task(self._follow(registry, remote), name=f"follow {digest.short}")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

        def over(_task: asyncio.Task[None]) -> None:
            remote.close()
            if self._remote.get(key) is remote:
                del self._remote[key]

        task.add_done_callback(over)
        return remote

    async def _follow(self, registry: str, remote: RemoteFill) -> None:
        await remote.run()
        if remote.state is State.VERIFIED:
            for repository in list(remote.repositories):
                with contextlib.suppress(StoreError):
                    await asyncio.to_thread(self._store.provenance.record, registry, repository, remote.digest)

    def repositories(self, registry: str, digest: Digest) -> Collection[str]:
        """Where upstream gave this blob, or confirmed it, since its fill began."""
        fill = self._active.get((registry, digest)) or self._remote.get((registry, digest))
        return fill.repositories if fill else ()

    async def start(self, wanted: Wanted, source: Source, size: int | None) -> Joined | Refused:
        """Ask upstream for a blob and begin to store it, or share what the same credential has begun.

        Args:
            wanted: the blob.
            source: whom to ask for it.
            size: its length in bytes, where a manifest told it.

        Raises:
            UpstreamError: no answer came.
            TokenUnavailable: the token service cannot help now.
            NotStorable: the answer cannot be stored; nothing of it was taken.
            Overtaken: a fill for another repository or credential began first; upstream was not asked about this one.
        """
        task = self._starting.get(wanted)
        started = task is None
        if task is None:
            task = asyncio.create_task(self._start(wanted, source, size), name=f"start {wanted.digest.short}")
            self._starting[wanted] = task
            task.add_done_callback(lambda task: self._begun(wanted, task))
        outcome = await asyncio.shield(task)
        return outcome if isinstance(outcome, Refused) else Joined(outcome, started)

    def _begun(self, wanted: Wanted, task: asyncio.Task[Fill | Refused]) -> None:
        del self._starting[wanted]
        if not task.cancelled():
            # Seen, whether or not somebody still waits for it.
            task.exception()

    async def _start(self, wanted: Wanted, source: Source, size: int | None) -> Fill | Refused:
        self._check()
        await self._limit.acquire(wanted.repository)
        held = True
        try:
            if reason := await self.failing():
                raise NotStorable(reason)
            outcome = await self._ask(wanted, source, size)
            if isinstance(outcome, tuple):
                fill, stretch, exchange = outcome
                self._run(wanted, fill, stretch, exchange)
                held = False
                return fill
            return outcome
        finally:
            if held:
                self._limit.release()

    def _check(self) -> None:
        if self.trouble.reason:
            raise NotStorable(self.trouble.reason)

    async def failing(self) -> str:
        """Why the store takes nothing just now; empty where it does.

        To be asked before anything is made on its disk on the event loop, which would else be stuck together with it.
        """
        if not self.trouble.reason:
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await asyncio.get_running_loop().run_in_executor(self._executor, self._store.check_writable)
            except TimeoutError:
                self.failed(DiskTrouble(f"the disk is slow: it takes more than {STUCK_SECONDS} s for an empty file"))
            except OSError as e:
                self.failed(e)
        return self.trouble.reason

    def failed(self, error: Exception) -> None:
        """The store did not take a blob."""
        self.trouble.note(error)
        if reason := self.trouble.reason:
            # Whoever is at it may be for as long as the disk is stuck.
            self._limit.turn_away(lambda: NotStorable(reason))

    async def _ask(
        self, wanted: Wanted, source: Source, size: int | None
    ) -> tuple[Fill, Stretch, Exchange] | Fill | Refused:
        key = (wanted.registry, wanted.digest)
        while active := self._active.get(key):
            if active.state is not State.BROKEN:
                # It began while this one waited for its turn. It was given to somebody else.
                raise Overtaken
            await self.over(active)
        claim = _Claim(self, wanted, source)
        start, stop = first_request(self._store.kept(wanted.digest, wanted.registry), size, self._connections)
        try:
            response, exchange = await source.get(start, stop, claim.choosing(start, size))
            if response.status_code == 416 and start:
                # What an earlier attempt left is longer than the blob.
                await exchange.abort()
                start, stop = first_request(0, size, self._connections)
                response, exchange = await source.get(start, stop, claim.choosing(start, size))
        except BaseException:
            if claim.fill is not None:
                # It is not to be found for ever by those who come later.
                del self._active[key]
                claim.fill.drop()
            raise
        if claim.fill is not None and claim.stretch is not None:
            return claim.fill, claim.stretch, exchange
        await exchange.abort()
        if claim.shared is not None:
            return claim.shared
        if claim.overtaken:
            raise Overtaken
        if claim.unfit:
            raise NotStorable(claim.unfit)
        return Refused(response)

    async def over(self, fill: Followed) -> None:
        """Wait until a fill is in the store, or has broken and put everything away."""
        if tasks := [task for task, running in self._running.items() if running is fill]:
            await asyncio.wait(tasks)

    def claim(self, wanted: Wanted, source: Source) -> Fill:
        """Begin to store a blob that upstream has begun to give.

        Raises:
            BlockingIOError: another process has begun.
            StoreError, OSError: it cannot be stored.
        """
        ingest = self._store.ingest(wanted.digest, wanted.registry)
        try:
            return Fill(ingest, source, self._executor, self._connections, self.failed)
        except OSError:
            let_go(ingest)
            raise

    def begun(self, wanted: Wanted, fill: Fill) -> None:
        """From now on, others find this fill."""
        self._active[wanted.registry, wanted.digest] = fill
        fill.repositories.add(wanted.repository)

    def _run(self, wanted: Wanted, fill: Fill, stretch: Stretch, exchange: Exchange) -> None:
        key = (wanted.registry, wanted.digest)

        def record() -> None:
            for repository in list(fill.repositories):
                self._store.provenance.record(wanted.registry, repository, fill.digest)

        def over(task: asyncio.Task[None]) -> None:
            self._store.tally.add(Count.UPSTREAM_BYTES, fill.received - fill.resumed)
            del self._running[task]
            del self._active[key]
            fill.close()
            self._limit.release()

        task = asyncio.create_task(fill.run(stretch, exchange, record), name=f"fill {fill.digest.short}")
        self._running[task] = fill
        task.add_done_callback(over)
        if self._progress is None or self._progress.done():
            self._progress = asyncio.create_task(self._show_progress(), name="progress of fills")

    async def _show_progress(self) -> None:
        """Keep the comments of the fills' flows telling how far they are, as long as there are fills."""
        while self._running:
            await asyncio.sleep(_PROGRESS_SECONDS)
            for fill in self._active.values():
                flows = [exchange.flow for exchange in fill.exchanges]
                for flow in flows:
                    flow.comment = f"{flow.comment.partition(': fill ')[0]}: fill {progress(fill)}"
                if flows:
                    ctx.master.addons.trigger(UpdateHook(flows))

    def _probe(self) -> None:
        """Store something, to see whether that works."""
        self._store.restore()
        self._store.room.reserve(_PROBE_BYTES)
        self._store.check_writable(_PROBE_BYTES, sync=True)

    async def close(self) -> None:
        """Break what is under way, and wait until its files are settled."""
        running: list[asyncio.Task[None] | asyncio.Task[Fill | Refused]] = [*self._starting.values(), *self._running]
        running += self._looking
        if self._progress is not None:
            running.append(self._progress)
        for task in running:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running, return_exceptions=True)
        # Until here, one of them could still run into some.
        await self.trouble.close()
        self._executor.shutdown()


class _Claim:
    """The attempt to store what upstream is about to give, as a `Choose` for its answer."""

    def __init__(self, fills: Fills, wanted: Wanted, source: Source) -> None:
        self._fills = fills
        self._wanted = wanted
        self._source = source
        self.fill: Fill | None = None
        self.stretch: Stretch | None = None
        self.shared: Fill | None = None
        """The fill of another request, which was quicker; upstream gives the blob to this one as well."""
        self.overtaken = False
        """Whether somebody else has it, with whom it cannot be shared just now."""
        self.unfit = ""
        """Why the answer cannot be stored."""

    def choosing(self, start: int, size: int | None) -> Choose:
        """The choice for an answer to a request for the bytes from ``start``."""

        def choose(response: http.Response) -> Receiver | None:
            if response.status_code == 416 and start:
                # Its body is not waited for: the distribution registry announces the whole blob there, and hangs up.
                return Nobody()
            if response.status_code not in (200, 206):
                return None
            try:
                check_coding(response)
                self._take(response, start, size)
            except BlockingIOError:
                self.overtaken = True
            except UpstreamError as e:
                self.unfit = str(e)
            except (StoreError, OSError) as e:
                self.unfit = told(e)
                if not isinstance(e, NoRoom):
                    self._fills.failed(e)
            return self.stretch or Nobody()

        return choose

    def _take(self, response: http.Response, start: int, size: int | None) -> None:
        if active := self._fills.active(self._wanted.registry, self._wanted.digest):
            if active.state is State.BROKEN:
                self.overtaken = True
            else:
                active.repositories.add(self._wanted.repository)
                self.shared = active
            return
        fill = self._fills.claim(self._wanted, self._source)
        try:
            self.stretch = fill.begin(response, start, size)
        except BaseException:
            fill.drop()
            raise
        self.fill = fill
        self._fills.begun(self._wanted, fill)


def progress(fill: Fill) -> str:
    """How far a fill is: bytes, rate since it began, and how many clients read along."""
    seconds = max(fill.seconds, 0.001)
    total = human.pretty_size(fill.size) if fill.size is not None else "?"
    rate = human.pretty_size(int((fill.received - fill.resumed) / seconds))
    return f"{fill.digest.short}: {human.pretty_size(fill.received)} of {total}, {rate}/s, {fill.followers} waiting"
