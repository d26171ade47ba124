"""The hook for blobs: recognise, authorise, then hit, join, or start a fill.

A blob GET or HEAD is answered here where that can be done. Where it cannot (a HEAD or a closed range of a blob that is
not stored, a digest that nobody can verify, a client that upstream is to refuse itself), nothing is done, and mitmproxy
sends the client's own request upstream; `addon.passthrough` sees to its token, as for any other registry request.
"""

import logging

from mitmproxy import http
from mitmproxy.log import ALERT
from mitmproxy.utils.strutils import escape_control_characters

from addon.auth.grants import Grant
from addon.auth.tokens import TokenUnavailable
from addon.parts import Parts
from addon.registry import cache_status
from addon.registry.digest import Digest
from addon.registry.errors import SpecError
from addon.registry.ranges import ByteRange
from addon.registry.routes import Kind
from addon.settings import Access
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.transfer import answers
from addon.transfer.blob_answer import asked_ranges, blob_answer
from addon.transfer.fill import Fill, State
from addon.transfer.fills import NotStorable, Refused, Wanted
from addon.transfer.source import BlobSource
from addon.transfer.target import Target, recognise
from addon.transfer.upstream import UpstreamError

logger = logging.getLogger(__name__)


class Pullthrough:
    """Answers blob requests out of the store, and fills it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def request(self, flow: http.HTTPFlow) -> None:
        """Answer a blob request (mitmproxy's hook for a request that is there in full)."""
        if flow.response or flow.error or not flow.live or self._parts.upstream.owns(flow):
            return
        target = recognise(flow, self._parts.settings)
        if target is None or target.route.kind is not Kind.BLOB or flow.request.method not in ("GET", "HEAD"):
            return
        try:
            flow.response = await self._answer(flow, target)
        except SpecError as e:
            flow.response = answers.refusal(e)
        except TokenUnavailable as e:
            flow.response = answers.unavailable(e)
        except UpstreamError as e:
            flow.response = answers.unreachable(e)
        if flow.response is not None:
            flow.response.headers.setdefault(cache_status.NAME, cache_status.BYPASS)
            how = flow.response.headers[cache_status.NAME].removeprefix("pulltap; ")
            logger.log(ALERT, "%s %s: %d, %s", *_named(target), flow.response.status_code, how)

    async def _answer(self, flow: http.HTTPFlow, target: Target) -> http.Response | None:
        digest = target.route.blob()
        wanted = asked_ranges(flow.request, digest)
        own = flow.request.headers.get("authorization")
        grant = await self._parts.grants.grant(target.registry, target.route, own, secure=target.scheme == "https")
        found = await self._find(flow, target, grant, digest, wanted) if digest.verifiable else None
        match found:
            case (BlobReader() | Fill() as source, str(status)):
                return blob_answer(source, digest, flow.request, wanted, status)
            case Refused(response):
                return response.copy()
            case None:
                self._parts.send_on(flow, target, grant)
                return None

    async def _find(
        self, flow: http.HTTPFlow, target: Target, grant: Grant, digest: Digest, wanted: list[ByteRange]
    ) -> tuple[BlobReader | Fill, str] | Refused | None:
        """Where the blob comes from: the store, a fill, or (None) upstream, by the client's own request."""
        try:
            if held := self._held(target, digest):
                if not await self._may_read(flow, target, grant, held, digest):
                    if isinstance(held, BlobReader):
                        held.close()
                    # Upstream says itself, to the client's own request, why not.
                    return None
                if isinstance(held, BlobReader):
                    return held, cache_status.HIT
                if flow.request.method == "GET" and held.state is not State.BROKEN:
                    return held, cache_status.COLLAPSED
            if _starts_a_fill(flow.request, wanted):
                return await self._fill(flow, target, grant, digest)
        except (NotStorable, StoreError) as e:
            logger.warning("%s; it passes through", e)
        return None

    def _held(self, target: Target, digest: Digest) -> BlobReader | Fill | None:
        """The blob as far as it is here, and this registry delivered it: only that makes it the registry's own."""
        parts = self._parts
        if fill := parts.fills.active(target.identity, digest):
            return fill.whole() or fill
        trusted = parts.settings.access is Access.TRUST
        if trusted or parts.store.provenance.delivered_by(target.identity, digest):
            try:
                return parts.store.open(digest)
            except OSError as e:
                logger.warning("blob %s cannot be read, and is fetched again: %s", digest.short, e.strerror)
        return None

    async def _may_read(
        self, flow: http.HTTPFlow, target: Target, grant: Grant, held: BlobReader | Fill, digest: Digest
    ) -> bool:
        """Whether upstream would give this blob, in this repository, to this credential."""
        parts, repository = self._parts, target.route.repository
        if parts.settings.access is Access.TRUST:
            return True
        if parts.verdicts.may_pull(target.identity, repository, grant.credential) and (
            repository in parts.fills.repositories(target.identity, digest)
            or parts.store.provenance.belongs(target.identity, repository, digest)
        ):
            return True
        source = self._source(flow, target, grant)
        if (await source.head()).status_code >= 400:
            return False
        parts.verdicts.record(target.identity, repository, source.grant.credential)
        if isinstance(held, Fill):
            held.repositories.add(repository)
        else:
            parts.store.provenance.record(target.identity, repository, digest)
        return True

    async def _fill(
        self, flow: http.HTTPFlow, target: Target, grant: Grant, digest: Digest
    ) -> tuple[Fill, str] | Refused:
        parts, repository = self._parts, target.route.repository
        wanted = Wanted(target.identity, repository, digest, grant.credential)
        source = self._source(flow, target, grant)
        outcome = await parts.fills.start(wanted, source, parts.sizes.get((target.identity, repository, digest)))
        if isinstance(outcome, Refused):
            parts.note_refusal(flow, target, source.grant, outcome.response)
            return outcome
        parts.verdicts.record(target.identity, repository, source.grant.credential)
        return outcome.fill, cache_status.STORED if outcome.started else cache_status.COLLAPSED

    def _source(self, flow: http.HTTPFlow, target: Target, grant: Grant) -> BlobSource:
        return BlobSource(self._parts.upstream, self._parts.grants, target, grant, flow)


def _starts_a_fill(request: http.Request, wanted: list[ByteRange]) -> bool:
    """Whether so much of the blob is wanted that all of it is worth fetching."""
    if request.method != "GET" or "if-none-match" in request.headers:
        return False
    return not wanted or (len(wanted) == 1 and wanted[0].open_ended)


def _named(target: Target) -> tuple[str, str]:
    route = target.route
    # A malformed name is the client's to choose, and could speak to the terminal.
    return escape_control_characters(route.repository[:80], False), escape_control_characters(route.reference[:19])
