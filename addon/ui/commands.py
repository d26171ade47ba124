"""The store's commands in mitmproxy's own prompt (``:registry.stats``); what takes long is told in the event log."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence

from mitmproxy import command, exceptions
from mitmproxy.log import ALERT

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.ui import listing
from addon.ui.listing import counted, size
from addon.ui.warming import WarmError, Warming, own_platform, told

logger = logging.getLogger(__name__)

YES = "--yes"
"""Without this word, a command that removes something only says what that would be."""


class _Ended(Exception):
    """The proxy ends in the midst of a blob."""


class Commands:
    """Commands named ``registry.…``, on the store of the running proxy."""

    def __init__(self, in_use: Callable[[], Parts]) -> None:
        """Begin.

        Args:
            in_use: gives the parts that are in use when a command is called; may raise CommandError.
        """
        self._in_use = in_use
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = threading.Event()

    @command.command("registry.stats")
    def stats(self) -> Sequence[str]:
        """What is stored, and what it was good for."""
        numbers = self._now(lambda: listing.stats(self._in_use().store))
        return [f"{name:15} {text}" for name, text in listing.stats_lines(numbers)]

    @command.command("registry.ls")
    def ls(self) -> Sequence[str]:
        """The images that are known: platforms, how much of each is stored, size, last use."""
        found = self._now(lambda: listing.images(self._in_use().store))
        rows = [[cell.replace("\n", ",") for cell in listing.row(image)] for image in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return lines or ["no image is known yet"]

    @command.command("registry.pin")
    def pin(self, image: str) -> None:
        """Keep an image, whatever else goes to make room."""
        wanted = self._now(lambda: Reference.parse(image))
        self._now(lambda: self._in_use().store.images.pin(wanted))
        logger.log(ALERT, "%s is pinned", wanted)

    @command.command("registry.unpin")
    def unpin(self, image: str) -> None:
        """Let an image that was pinned go again."""
        wanted = self._now(lambda: Reference.parse(image))
        known = self._now(lambda: self._in_use().store.images.unpin(wanted))
        logger.log(ALERT, "%s may go again" if known else "%s was not pinned", wanted)

    @command.command("registry.verify")
    def verify(self, *names: str) -> None:
        """Compare the blobs of images, or blobs named by their digests, or all of them, with their digests."""
        parts = self._in_use()
        store = parts.store

        async def verify() -> str:
            found = await asyncio.to_thread(lambda: listing.digests(store, names))
            outcomes = [(digest, await asyncio.to_thread(self._verified, store, digest)) for digest in found]
            # Those that went meanwhile, to make room, are neither.
            gone = sum(good is None for _, good in outcomes)
            bad = [digest for digest, good in outcomes if good is False]
            parts.upkeep.changed()
            return listing.verified(len(outcomes) - len(bad) - gone, len(bad), gone)

        self._later("registry.verify", verify)

    def _verified(self, store: Store, digest: Digest) -> bool | None:
        """Whether a blob is good; None where it has gone meanwhile."""

        def go_on(_count: int) -> None:
            if self._ending.is_set():
                # Nobody waits for it any more, but for its thread.
                raise _Ended

        try:
            good = store.verify(digest, go_on)
        except OSError as e:
            logger.warning("blob %s cannot be read: %s", digest, e.strerror or e)
            return False
        # A bad one was taken away, unless it was fetched anew meanwhile.
        return store.path(digest).exists() if good is False else good

    @command.command("registry.purge")
    def purge(self, *names: str) -> None:
        """Remove images, or blobs named by their digests; says what that means, and does it with --yes."""
        store = self._in_use().store
        chosen = [name for name in names if name != YES]
        if not chosen:
            raise exceptions.CommandError("name images, or digests of blobs")

        async def purge() -> str:
            plan = await asyncio.to_thread(lambda: listing.removal(store, chosen))
            lines = [*(image.name for image in plan.images), counted(len(plan.blobs), "blob"), size(plan.size)]
            if YES not in names:
                return f"with {YES}, this goes: {', '.join(lines)}"
            stayed = await asyncio.to_thread(lambda: listing.remove(store, plan))
            return f"removed {', '.join(lines)}" + (f"; {len(stayed)} stay: they are being read" if stayed else "")

        self._later("registry.purge", purge)

    @command.command("registry.gc")
    def gc(self, *words: str) -> None:
        """Remove bad blobs, rests of broken fills, and what is over the limits; does it with --yes."""
        if set(words) - {YES}:
            raise exceptions.CommandError(f"registry.gc takes {YES}, and nothing else")
        store = self._in_use().store

        async def gc() -> str:
            plan = await asyncio.to_thread(lambda: listing.waste(store))
            if not plan.lines():
                return "there is nothing to remove"
            if YES not in words:
                return f"with {YES}, this goes: {'; '.join(plan.lines())}"
            before, after = await asyncio.to_thread(lambda: listing.collect(store, plan))
            return f"{size(max(0, before - after))} went; {size(after)} are in the store"

        self._later("registry.gc", gc)

    @command.command("registry.warm")
    def warm(self, *images: str) -> None:
        """Pull images into the store, for this machine's platform."""
        references = self._now(lambda: [Reference.parse(image) for image in images])
        if not references:
            raise exceptions.CommandError("name images")
        parts = self._in_use()

        async def warm() -> str:
            done = [await Warming(parts, reference).run([own_platform()]) for reference in references]
            return "; ".join(map(told, done))

        self._later("registry.warm", warm)

    async def done(self) -> None:
        """Give up what is under way (mitmproxy's hook for the end)."""
        self._ending.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _later(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        async def tell() -> None:
            try:
                logger.log(ALERT, "%s: %s", name, await work())
            except (ValueError, WarmError, StoreError, OSError) as e:
                logger.log(logging.ERROR, "%s: %s", name, e)

        task = asyncio.create_task(tell(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now[T](self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (ValueError, StoreError, OSError) as e:
            raise exceptions.CommandError(str(e)) from e
