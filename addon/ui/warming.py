"""Pulls images into the store without any container runtime: manifests, then whatever blobs are missing."""

import asyncio
import platform as machine
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from mitmproxy import connection, http

from addon.auth.tokens import TokenUnavailable
from addon.parts import Parts
from addon.registry import manifest
from addon.registry.digest import Digest
from addon.registry.manifest import Descriptor, Manifest
from addon.registry.reference import Reference
from addon.registry.routes import Kind, Route
from addon.settings import Auth, authority
from addon.store.errors import StoreError
from addon.transfer.fills import NotStorable, Overtaken, Refused, Wanted
from addon.transfer.followed import Followed, State
from addon.transfer.source import BlobSource
from addon.transfer.target import Target
from addon.transfer.upstream import UpstreamError
from addon.ui.listing import counted, size

ALL = "all"
"""In the place of a platform: every one that an image has."""
ACCEPT = ", ".join(
    (
        manifest.INDEX,
        manifest.MANIFEST,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_MOST_TRIES, _AGAIN_SECONDS = 100, 0.05
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6", "i686": "386"}


class WarmError(Exception):
    """An image, or a part of it, cannot be fetched; the message says why."""


@dataclass
class Part:
    """One blob of an image on its way into the store."""

    descriptor: Descriptor
    received: int = 0
    """Bytes that are there."""
    note: str = ""
    """How it ended; empty as long as it is on its way."""


@dataclass
class Warmed:
    """An image in the store."""

    reference: Reference
    platforms: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def fetched(self) -> int:
        """Bytes that came from upstream."""
        return sum(part.descriptor.size for part in self.parts if part.note == FETCHED)

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return sum(part.descriptor.size for part in self.parts)


FETCHED, STORED = "fetched", "was stored"
Watch = Callable[[Part], None]
"""Is told each time that a part has got further."""


def own_platform() -> str:
    """The platform of containers on this machine."""
    return f"linux/{_ARCHITECTURES.get(machine.machine(), machine.machine())}"


class Warming:
    """Fetches one image."""

    def __init__(self, parts: Parts, reference: Reference) -> None:
        """Begin.

        Raises:
            WarmError: its registry is none of those whose blobs are kept.
        """
        host, port = reference.address
        registry = parts.settings.registry("https", host, port)
        if registry is None:
            raise WarmError(f"{reference.registry} is not among registry_hosts: its blobs are not kept")
        self._parts = parts
        self._reference = reference
        # There is no client that could log in by itself.
        self._registry = replace(registry, auth=Auth.INJECT)
        self._host, self._port = host, port
        self._client = connection.Client(peername=("pulltap", 0), sockname=("pulltap", 0))

    async def run(self, platforms: Collection[str], watch: Watch = lambda _: None) -> Warmed:
        """Fetch what is missing.

        Args:
            platforms: ``os/architecture[/variant]``, or `ALL`.
            watch: is told of progress.

        Raises:
            WarmError: something cannot be fetched; what came is kept.
        """
        warmed = Warmed(self._reference)
        for found in await self._manifests(platforms, warmed):
            known = {part.descriptor.digest for part in warmed.parts}
            # The same layer may stand twice in a manifest, or in two of them.
            new = {blob.digest: Part(blob) for blob in found.blobs if blob.digest not in known}
            warmed.parts += new.values()
        for part in warmed.parts:
            watch(part)
        outcomes = await asyncio.gather(*(self._fetch(part, watch) for part in warmed.parts), return_exceptions=True)
        for failure in outcomes:
            if failure is not None:
                raise failure
        return warmed

    async def _manifests(self, platforms: Collection[str], warmed: Warmed) -> list[Manifest]:
        top = await self._manifest(self._reference.reference)
        if not top.manifests:
            return [top]
        chosen: list[Descriptor] = []
        for platform in platforms:
            if platform == ALL:
                # What is signed or attested there is no platform, and comes along.
                chosen += top.manifests
            elif (one := top.for_platform(platform)) is not None:
                chosen.append(one)
            else:
                there = ", ".join(sorted({each.platform for each in top.manifests} - {"", "unknown/unknown"}))
                which = f"there are {there}" if there else "it names no platform"
                raise WarmError(f"{self._reference} is not there for {platform}; {which}")
        unique = list({each.digest: each for each in chosen}.values())
        warmed.platforms = [each.platform for each in unique]
        return [found for each in unique for found in await self._below(each)]

    async def _below(self, top: Descriptor) -> list[Manifest]:
        """The manifest that an index lists there; all of them where that is another index."""
        todo, seen, leaves = [top.digest], {top.digest}, list[Manifest]()
        while todo:
            found = await self._manifest(str(todo.pop()))
            if not found.manifests:
                leaves.append(found)
            new = [digest for digest in dict.fromkeys(each.digest for each in found.manifests) if digest not in seen]
            seen.update(new)
            todo += reversed(new)
        return leaves

    async def _manifest(self, reference: str) -> Manifest:
        source, target = await self._source(Kind.MANIFEST, reference)
        response = await self._asked(source.manifest(ACCEPT))
        self._check(response, reference)
        content = response.content or b""
        try:
            found = manifest.parse(content)
        except ValueError as e:
            raise WarmError(f"{self._reference}: {e}") from e
        if ":" in reference and reference != str(Digest.of(content, Digest.parse(reference).algorithm)):
            raise WarmError(f"{self._reference}: the registry gave another manifest than {reference}")
        self._parts.verdicts.record(target.identity, target.route.repository, source.grant.credential)
        if noting := self._parts.learn(target, "GET", response):
            await noting
        return found

    async def _fetch(self, part: Part, watch: Watch) -> None:
        source, target = await self._source(Kind.BLOB, str(part.descriptor.digest))
        try:
            for _ in range(_MOST_TRIES):
                if await self._is_stored(part.descriptor.digest, source, target):
                    if not part.note:
                        part.note = STORED
                        self._parts.store.inventory.used(part.descriptor.digest)
                    part.received = part.descriptor.size
                    watch(part)
                    return
                fill = await self._fill(part.descriptor, source, target)
                if fill is None:
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                await self._follow(fill, part, watch)
                part.note = FETCHED
        except (NotStorable, StoreError, OSError) as e:
            raise WarmError(f"{self._reference}: blob {part.descriptor.digest.short} cannot be stored: {e}") from e
        raise WarmError(f"{self._reference}: blob {part.descriptor.digest.short} does not come to be stored")

    async def _is_stored(self, digest: Digest, source: BlobSource, target: Target) -> bool:
        """Whether the blob is stored, good, and known to be in this repository."""
        store = self._parts.store
        reader = self._parts.stored(target.identity, digest)
        if reader is None:
            return False
        reader.close()
        if not reader.verified and not await asyncio.to_thread(store.verify, digest):
            return False
        if not store.provenance.belongs(target.identity, target.route.repository, digest):
            self._check(await self._asked(source.head()), digest.short)
            await asyncio.to_thread(store.provenance.record, target.identity, target.route.repository, digest)
        return True

    async def _fill(self, descriptor: Descriptor, source: BlobSource, target: Target) -> Followed | None:
        fills = self._parts.fills
        digest, repository = descriptor.digest, target.route.repository
        if elsewhere := fills.active(target.identity, digest) or fills.elsewhere(target.identity, digest):
            return elsewhere
        wanted = Wanted(target.identity, repository, digest, source.grant.credential)
        try:
            outcome = await self._asked(fills.start(wanted, source, descriptor.size))
        except Overtaken:
            return None
        if isinstance(outcome, Refused):
            self._check(outcome.response, digest.short)
            return None
        return outcome.fill

    async def _follow(self, fill: Followed, part: Part, watch: Watch) -> None:
        while fill.state is State.RUNNING:
            part.received = min(fill.received, part.descriptor.size)
            watch(part)
            await fill.change()
        await self._parts.fills.over(fill)
        if fill.state is State.BROKEN and not fill.interrupted:
            raise WarmError(f"{self._reference}: blob {part.descriptor.digest.short}: {fill.reason}")

    async def _asked[T](self, question: Coroutine[Any, Any, T]) -> T:
        try:
            return await question
        except (UpstreamError, TokenUnavailable) as e:
            raise WarmError(f"{self._reference}: {e}") from e

    def _check(self, response: http.Response, what: str) -> None:
        """See to it that upstream said yes.

        Raises:
            WarmError: it did not.
        """
        if response.status_code < 400:
            return
        reasons = {
            401: "it is not there, or needs a login, which registry_docker_config names",
            403: "this account may not pull it",
            404: "it is not there",
            429: f"the registry limits pulls; try again in {response.headers.get('retry-after', 'a few')} s",
        }
        reason = reasons.get(response.status_code, "")
        said = f"{self._host} answered {response.status_code} to {what}"
        raise WarmError(f"{self._reference}: {reason} ({said})" if reason else f"{self._reference}: {said}")

    async def _source(self, kind: Kind, reference: str) -> tuple[BlobSource, Target]:
        """Whom to ask for a manifest or a blob, in the way of a client's request that brings no credential."""
        repository = self._reference.repository
        route = Route(kind, repository, reference)
        target = Target(self._registry, self._registry.host, route, "https", self._host, self._port)
        flow = http.HTTPFlow(self._client, connection.Server(address=None))
        name = authority("https", self._host, self._port)
        place = "manifests" if kind is Kind.MANIFEST else "blobs"
        flow.request = http.Request.make("GET", f"https://{name}/v2/{repository}/{place}/{reference}")
        grants = self._parts.grants
        grant = await self._asked(grants.grant(self._registry, route, None, secure=True))
        return BlobSource(self._parts.upstream, grants, target, grant, flow), target


def told(warmed: Warmed) -> str:
    """One line about an image that is in the store by now."""
    there = sum(part.note == STORED for part in warmed.parts)
    platforms = f" for {', '.join(each or 'any platform' for each in warmed.platforms)}" if warmed.platforms else ""
    if not there:
        came = "all fetched"
    elif there == len(warmed.parts):
        came = "all stored already"
    else:
        came = f"{size(warmed.fetched)} fetched, {counted(there, 'blob')} stored already"
    return f"{warmed.reference}{platforms}: {counted(len(warmed.parts), 'blob')}, {size(warmed.size)}; {came}"
