"""The parts that a running proxy is made of, as the hooks share them."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from cachetools import LRUCache, TTLCache
from mitmproxy import http

from addon.auth.access import Verdicts
from addon.auth.grants import Grant, Grants
from addon.auth.tokens import Tokens
from addon.registry import manifest
from addon.registry.digest import Digest
from addon.registry.manifest import Descriptor
from addon.settings import Access, Settings
from addon.store import images
from addon.store.blob import BlobReader
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.room import Limits
from addon.transfer.fills import Fills
from addon.transfer.target import Target
from addon.transfer.token_service import TokenService
from addon.transfer.upkeep import Upkeep
from addon.transfer.upstream import Upstream

logger = logging.getLogger(__name__)

_DESCRIPTORS = 50_000
_LENGTH = re.compile(r"[0-9]{1,9}", re.ASCII)
_REFUSED_SECONDS = 10 * 60
_MOST_REFUSED = 10_000


class Parts:
    """One set of parts; a change of the settings makes a new one."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Put the parts together.

        Raises:
            StoreError: the store cannot be used.
        """
        self.settings = settings
        self.store = Store(settings.store, Limits(settings.max_size, settings.min_free))
        self.upkeep = Upkeep(self.store)
        self.upstream = Upstream()
        self.grants = Grants(Tokens(TokenService(self.upstream).fetch, clock), clock)
        self.verdicts = Verdicts(clock, settings.access_grace)
        self.fills = Fills(self.store, most=settings.max_fills, connections=settings.fill_connections)
        self.sizes: LRUCache[tuple[str, str, Digest], int] = LRUCache(_DESCRIPTORS)
        """Lengths in bytes of a registry's repository's blobs, out of the descriptors of manifests that passed."""
        self.under_way: WeakKeyDictionary[http.HTTPFlow, tuple[Target, Grant]] = WeakKeyDictionary()
        """The registry requests that go upstream as flows of their clients, and what they carry."""
        self.unstored: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        """Blob requests that go upstream because the store is in trouble, and which."""
        self._learning: set[asyncio.Task[None]] = set()
        self._refused: TTLCache[tuple[str, str], bool] = TTLCache(_MOST_REFUSED, _REFUSED_SECONDS, timer=clock)

    def send_on(self, flow: http.HTTPFlow, target: Target, grant: Grant) -> None:
        """Let a client's request go upstream with what it was granted."""
        if grant.injected and grant.authorization:
            flow.request.headers["Authorization"] = grant.authorization
        self.under_way[flow] = target, grant

    def note_refusal(self, flow: http.HTTPFlow, target: Target, grant: Grant, response: http.Response) -> None:
        """Remember a client that sees a 401 to a token of ours, so that its next ping reaches the registry."""
        if response.status_code == 401 and grant.injected:
            self._refused[flow.client_conn.peername[0], target.identity] = True

    def was_refused(self, flow: http.HTTPFlow, target: Target) -> bool:
        """Whether this client was refused at this registry with a token of ours, within the last ten minutes."""
        return (flow.client_conn.peername[0], target.identity) in self._refused

    def stored(self, identity: str, digest: Digest) -> BlobReader | None:
        """A stored blob, if it may be this registry's: it delivered the blob, or an operator put it there.

        Raises:
            StoreError: the catalogue cannot be read.
            OSError: the blob cannot be read.
        """
        reader = self.store.open(digest)
        if reader is None:
            return None
        provenance = self.store.provenance
        trusted = self.settings.access is Access.TRUST
        if trusted or provenance.delivered_by(identity, digest) or provenance.unclaimed(digest):
            return reader
        reader.close()
        return None

    def learn(self, target: Target, method: str, response: http.Response) -> asyncio.Task[None] | None:
        """Take note of a manifest that a registry has just given, or, to a HEAD, described; it is written down later.

        Returns:
            The task that writes it down; None where there is nothing to be noted.
        """
        try:
            content = (response.content or b"") if method == "GET" else b""
            descriptor = described(response, content)
            named = manifest.parse(content) if content else None
        except ValueError:
            return None
        repository = target.route.repository
        if named is not None:
            if descriptor is not None:
                # Other tools go by it, and not every server names the type in its answer.
                descriptor = replace(descriptor, media_type=named.media_type)
            self.sizes.update(((target.identity, repository, blob.digest), blob.size) for blob in named.blobs)
        if descriptor is None or not target.route.is_manifest_of(descriptor.digest):
            return None
        task = asyncio.create_task(self._note(target, descriptor, content), name=f"note {descriptor.digest.short}")
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)
        return task

    async def _note(self, target: Target, descriptor: Descriptor, content: bytes) -> None:
        """Write down what passed; the client has it already."""

        def note() -> None:
            if content and not self.fills.trouble.reason:
                self.store.put(descriptor.digest, content, target.identity)
            self.store.images.saw(target.identity, target.route.repository, target.route.reference, descriptor)

        if self.fills.trouble.stuck:
            # The thread would be, too.
            return
        try:
            await asyncio.to_thread(note)
        except (StoreError, OSError) as e:
            logger.info("manifest %s is not written down: %s", descriptor.digest.short, e)

    async def close(self) -> None:
        """Break the fills, and close the store."""
        await self.upkeep.stop()
        await self.fills.close()
        if self._learning:
            await asyncio.wait(self._learning)
        self.store.close()


def described(response: http.Response, content: bytes) -> Descriptor | None:
    """What an answer to a request for a manifest says of it; None where it does not say, or contradicts itself.

    Args:
        response: the answer.
        content: the manifest's bytes; empty for a HEAD.

    Raises:
        ValueError: the digest that it tells is none.
    """
    told = response.headers.get("docker-content-digest", "")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    if not content:
        length = response.headers.get("content-length", "")
        if not told or not _LENGTH.fullmatch(length) or "content-encoding" in response.headers:
            # In a coding, the manifest has another length.
            return None
        size = int(length)
        return Descriptor(Digest.parse(told), size, media_type) if 0 < size <= images.LARGEST else None
    digest = Digest.parse(told) if told else Digest.of(content)
    return Descriptor(digest, len(content), media_type) if digest == Digest.of(content, digest.algorithm) else None
