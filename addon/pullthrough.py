"""The hook for blobs: recognise, authorise, then hit, join, or start a fill.

A blob GET or HEAD is answered here where that can be done. Where it cannot (a HEAD or a closed range of a blob that is
not stored, a digest that nobody can verify, a client that upstream is to refuse itself), nothing is done, and mitmproxy
sends the client's own request upstream; `addon.passthrough` sees to its token, as for any other registry request.
"""

import asyncio
import errno
import logging
from dataclasses import dataclass, field

from mitmproxy import http
from mitmproxy.log import ALERT
from mitmproxy.utils.strutils import escape_control_characters

from addon.auth.grants import Grant
from addon.auth.shared import Shared
from addon.auth.tokens import TokenUnavailable, waiting_time
from addon.parts import Parts
from addon.registry import cache_status
from addon.registry.digest import Digest
from addon.registry.errors import ErrorCode, SpecError
from addon.registry.ranges import ByteRange, Span
from addon.registry.routes import Kind
from addon.settings import Access, Auth
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.store.tally import Count
from addon.transfer import answers
from addon.transfer.blob_answer import asked_ranges, blob_answer
from addon.transfer.body import Body, BodyBroken, StoredBody
from addon.transfer.doubts import Doubts
from addon.transfer.fill import Fill
from addon.transfer.fills import NotStorable, Overtaken, Refused, Wanted
from addon.transfer.followed import Followed, GrowingBody, State
from addon.transfer.passing import GoOn, Passing
from addon.transfer.source import BlobSource
from addon.transfer.target import Target, recognise
from addon.transfer.trouble import told
from addon.transfer.upstream import UpstreamError

logger = logging.getLogger(__name__)

# As often as that a blob may be found in the hands of somebody who has nothing of it yet.
_MOST_TRIES, _AGAIN_SECONDS = 100, 0.02


@dataclass(frozen=True, slots=True)
class _Question:
    """Whether somebody may pull from a repository, and, where that is not known, whether a blob belongs to it.

    The same question is asked once for all who have it at the same time: a whole image, whose layers belong to their
    repository, costs one.
    """

    registry: str
    repository: str
    asker: str
    digest: Digest | None
    """The blob; None where it is known to belong to the repository, so that the answer holds for all that do."""
    flow: http.HTTPFlow = field(compare=False)
    """One of those who ask, on whose behalf it is."""
    target: Target = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a blob's bytes are."""

    source: BlobReader | Followed
    status: str
    """The value of ``Cache-Status``."""
    upstream: BlobSource | None = None
    """Whom to ask for the rest, should a fill be interrupted."""


class _Unanswered(Exception):
    """Upstream has trouble of its own (429 or 5xx), so that nothing is known about the client."""

    def __init__(self, host: str, answer: http.Response) -> None:
        super().__init__(f"{host} answered {answer.status_code}")
        self.retry_after = waiting_time(answer.headers.get("retry-after"))


def _nobody_knows(repository: str, cause: Exception) -> SpecError:
    """The refusal of a client about whom upstream cannot be asked; it is to come again."""
    retry_after = getattr(cause, "retry_after", None) or waiting_time(None)
    message = f"whether you may pull from {repository} cannot be asked now: {cause}"
    return SpecError(503, ErrorCode.DENIED, message, {"Retry-After": retry_after})


class Pullthrough:
    """Answers blob requests out of the store, and fills it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._questions = Shared(self._ask)
        self._verifying = Shared(self._verify)
        self._doubts = Doubts()

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
        try:
            found = await self._find(flow, target, digest, wanted) if digest.verifiable else None
            if isinstance(found, _Found):
                go_on = self._going_on(flow, target, found)
                whole = flow.request.method == "GET" and not wanted

                def over(body: StoredBody) -> None:
                    self._was_given(flow, digest, body, whole=whole)

                return blob_answer(found.source, digest, flow.request, wanted, found.status, go_on=go_on, over=over)
            if isinstance(found, Refused):
                return found.response.copy()
        except (NotStorable, StoreError, OSError) as e:
            self._parts.unstored[flow] = told(e)
            self._parts.store.tally.add(Count.BYPASSED)
            if isinstance(e, OSError):
                self._parts.fills.failed(e)
            # Trouble of the store's own was told when it began.
            level = logging.INFO if self._parts.fills.trouble.reason else logging.WARNING
            logger.log(level, "blob %s passes through: %s", digest.short, told(e))
        self._parts.send_on(flow, target, await self._grant(flow, target))
        return None

    async def _find(
        self, flow: http.HTTPFlow, target: Target, digest: Digest, wanted: list[ByteRange]
    ) -> _Found | Refused | None:
        """Where the blob comes from: the store, a fill, or (None) upstream, by the client's own request.

        Raises:
            NotStorable, StoreError, OSError: the store is of no help.
        """
        if self._parts.fills.trouble.stuck:
            raise NotStorable(self._parts.fills.trouble.reason)
        for _ in range(_MOST_TRIES):
            if held := self._held(target, digest):
                if not await self._may_read(flow, target, held, digest):
                    # Upstream says itself, to the client's own request, why not.
                    return None
                if isinstance(held, BlobReader):
                    if self._doubtful(flow, held, digest, whole=not wanted):
                        held.close()
                        await self._verifying.answer(digest)
                        # It is verified now, or gone.
                        continue
                    self._parts.store.inventory.used(digest)
                    self._parts.store.tally.add(Count.HITS)
                    return _Found(held, cache_status.HIT)
                if flow.request.method == "GET" and held.state is not State.BROKEN:
                    source = await self._joining(flow, target)
                    if held.over:
                        continue
                    held.joined(source)
                    self._parts.store.tally.add(Count.COLLAPSED)
                    return _Found(held, cache_status.COLLAPSED, source)
            if not _starts_a_fill(flow.request, wanted):
                return None
            try:
                return await self._fill(flow, target, digest)
            except Overtaken:
                # There is a fill by now, whose blob this client may read or not; another process may just be about to.
                await asyncio.sleep(_AGAIN_SECONDS)
        raise NotStorable(f"blob {digest.short} is being filled by somebody else, who does not come to it")

    def _held(self, target: Target, digest: Digest) -> BlobReader | Followed | None:
        """The blob as far as it is here, and this registry delivered it: only that makes it the registry's own."""
        parts = self._parts
        if fill := parts.fills.active(target.identity, digest):
            return fill.whole() or fill
        try:
            if reader := parts.stored(target.identity, digest):
                return reader
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise
            logger.warning("blob %s cannot be read, and is fetched again: %s", digest.short, e.strerror)
        return parts.fills.elsewhere(target.identity, digest)

    async def _verify(self, digest: Digest) -> bool:
        good = await asyncio.to_thread(self._parts.store.verify, digest)
        self._doubts.settle(digest)
        if not good:
            self._parts.upkeep.changed()
        return bool(good)

    def _doubtful(self, flow: http.HTTPFlow, held: BlobReader, digest: Digest, *, whole: bool) -> bool:
        """Whether the bytes of a stored blob are to be compared with its digest before it is given to anybody."""
        doubted = flow.request.method == "GET" and self._doubts.about(_client(flow), digest, whole=whole)
        # Somebody else may have had it verified while upstream was asked who may read it.
        return doubted or not (held.verified or self._parts.store.trusts(digest, held))

    def _was_given(self, flow: http.HTTPFlow, digest: Digest, body: StoredBody, *, whole: bool) -> None:
        """Take note of what a client got out of the store."""
        self._parts.store.tally.add(Count.HIT_BYTES, body.position - body.span.start)
        if body.failed:
            self._doubts.failed(digest)
        elif whole and body.ended:
            self._doubts.given(_client(flow), digest)

    def _going_on(self, flow: http.HTTPFlow, target: Target, found: _Found) -> GoOn:
        async def go_on(body: GrowingBody) -> Body:
            """What this client is given from where its fill was interrupted."""
            assert found.upstream
            try:
                if not isinstance(body.fill, Fill) and (rest := await self._taken_over(flow, target, body)):
                    return rest
                logger.info("blob %s goes on past the store", body.fill.digest.short)
                return await self._pass_on(body, found.upstream)
            except (OSError, UpstreamError, TokenUnavailable, SpecError) as e:
                raise BodyBroken(f"{body.fill.reason}, and {e}") from e

        return go_on

    async def _pass_on(self, body: GrowingBody, source: BlobSource) -> Body:
        try:
            return await Passing.behind(body, source)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # Those of the fill that broke are given back in a moment.
            await self._parts.fills.over(body.fill)
            return await Passing.behind(body, source)

    async def _taken_over(self, flow: http.HTTPFlow, target: Target, body: GrowingBody) -> Body | None:
        """What goes on with the file of another process; None where that can only be done past the store.

        Raises:
            BodyBroken: upstream would not give the rest.
            UpstreamError, TokenUnavailable, SpecError: it cannot be asked.
        """
        try:
            found = await self._find(flow, target, body.fill.digest, [])
        except (NotStorable, StoreError, OSError) as e:
            logger.info("blob %s: nobody goes on with its fill: %s", body.fill.digest.short, told(e))
            return None
        if not isinstance(found, _Found):
            raise BodyBroken(body.fill.reason)
        return _rest(found.source, body)

    async def _may_read(self, flow: http.HTTPFlow, target: Target, held: BlobReader | Followed, digest: Digest) -> bool:
        """Whether upstream would give this blob, in this repository, to this client; a reader is closed where not.

        Raises:
            SpecError: 503, upstream cannot be asked, and did not say so a short while ago.
        """
        allowed = False
        try:
            allowed = await self._is_allowed(flow, target, held, digest)
        finally:
            if not allowed and isinstance(held, BlobReader):
                held.close()
        return allowed

    async def _is_allowed(
        self, flow: http.HTTPFlow, target: Target, held: BlobReader | Followed, digest: Digest
    ) -> bool:
        parts, repository = self._parts, target.route.repository
        if parts.settings.access is Access.TRUST:
            return True
        own = flow.request.headers.get("authorization")
        asker = await parts.grants.asker(target.registry, own, secure=target.scheme == "https")
        belongs = repository in parts.fills.repositories(target.identity, digest) or parts.store.provenance.belongs(
            target.identity, repository, digest
        )
        if belongs and parts.verdicts.may_pull(target.identity, repository, asker):
            return True
        question = _Question(target.identity, repository, asker, None if belongs else digest, flow, target)
        try:
            allowed = await self._questions.answer(question)
        except (UpstreamError, TokenUnavailable, _Unanswered) as e:
            if not belongs or not parts.verdicts.could_pull(target.identity, repository, asker):
                raise _nobody_knows(repository, e) from e
            logger.warning(
                "%s: what was allowed until a moment ago stands, since upstream cannot be asked: %s", repository, e
            )
            return True
        if allowed and isinstance(held, Followed):
            # Written down once the blob is there: until then, a registry may say so and never deliver it.
            held.repositories.add(repository)
        elif allowed:
            await asyncio.to_thread(parts.store.provenance.record, target.identity, repository, digest)
        return allowed

    async def _ask(self, question: "_Question") -> bool:
        """Ask upstream, for all who want to know the same thing now.

        Raises:
            UpstreamError: no answer came.
            TokenUnavailable: the token service cannot help now.
            _Unanswered: upstream has trouble of its own.
        """
        parts, target = self._parts, question.target
        source = self._source(question.flow, target, await self._grant(question.flow, target))
        answer = await source.head()
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _Unanswered(target.host, answer)
        allowed = answer.status_code < 400
        change = parts.verdicts.record if allowed else parts.verdicts.forget
        for credential in {question.asker, source.grant.credential}:
            change(question.registry, question.repository, credential)
        return allowed

    async def _grant(self, flow: http.HTTPFlow, target: Target) -> Grant:
        own = flow.request.headers.get("authorization")
        return await self._parts.grants.grant(target.registry, target.route, own, secure=target.scheme == "https")

    async def _fill(self, flow: http.HTTPFlow, target: Target, digest: Digest) -> _Found | Refused:
        parts, repository = self._parts, target.route.repository
        grant = await self._grant(flow, target)
        wanted = Wanted(target.identity, repository, digest, grant.credential)
        source = self._source(flow, target, grant)
        outcome = await parts.fills.start(wanted, source, parts.sizes.get((target.identity, repository, digest)))
        if isinstance(outcome, Refused):
            parts.note_refusal(flow, target, source.grant, outcome.response)
            return outcome
        parts.verdicts.record(target.identity, repository, source.grant.credential)
        if outcome.fill.over:
            raise Overtaken
        parts.store.tally.add(Count.MISSES if outcome.started else Count.COLLAPSED)
        status = cache_status.STORED if outcome.started else cache_status.COLLAPSED
        return _Found(outcome.fill, status, source)

    async def _joining(self, flow: http.HTTPFlow, target: Target) -> BlobSource:
        """Whom to ask for this client, should that become necessary: no token is asked for it before."""
        own = flow.request.headers.get("authorization")
        asker = await self._parts.grants.asker(target.registry, own, secure=target.scheme == "https")
        injected = own is None and target.registry.auth is Auth.INJECT
        return self._source(flow, target, Grant(own, asker, injected))

    def _source(self, flow: http.HTTPFlow, target: Target, grant: Grant) -> BlobSource:
        return BlobSource(self._parts.upstream, self._parts.grants, target, grant, flow)


def _rest(source: BlobReader | Followed, body: GrowingBody) -> Body | None:
    """What goes on where a body was interrupted, in the same file; None where another one has to be told by its digest.

    Raises:
        BodyBroken: it is another file, and the digest will not tell whether both have the same bytes.
        OSError: too many files are open.
    """
    rest: Body
    # What was kept, and was too long for the blob, was fetched anew.
    anew = isinstance(source, Fill) and source.resumed < body.position
    if isinstance(source, Followed):
        rest = growing = source.body(None)
        growing.position, growing.stop = body.position, body.stop
        reader = growing.reader
    else:
        reader = source
        rest = StoredBody(reader, Span(body.position, reader.size if body.stop is None else body.stop))
    if not body.position or (not anew and reader.same_file(body.reader)):
        return rest
    rest.close()
    if body.stop != body.fill.size:
        raise BodyBroken(body.fill.reason)
    return None


def _starts_a_fill(request: http.Request, wanted: list[ByteRange]) -> bool:
    """Whether so much of the blob is wanted that all of it is worth fetching."""
    if request.method != "GET" or "if-none-match" in request.headers:
        return False
    return not wanted or (len(wanted) == 1 and wanted[0].open_ended)


def _client(flow: http.HTTPFlow) -> str:
    """The address of the client."""
    return str(flow.client_conn.peername[0])


def _named(target: Target) -> tuple[str, str]:
    route = target.route
    # A malformed name is the client's to choose, and could speak to the terminal.
    return escape_control_characters(route.repository[:80], False), escape_control_characters(route.reference[:19])
