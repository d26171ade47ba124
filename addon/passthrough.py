"""The hook for everything but blobs: it passes untouched, with a token where there is none.

Manifests, tag lists, referrers and uploads arrive as they were sent, in both directions; bodies that may be large are
streamed. Manifests that pass are read for what they prove: that this credential may pull this repository, and how long
the blobs are that they name.
"""

import logging

from mitmproxy import http, tls
from mitmproxy.proxy import mode_specs

from addon.auth.grants import READ, Grant
from addon.auth.tokens import TokenUnavailable
from addon.parts import Parts
from addon.registry import cache_status
from addon.registry.routes import Kind
from addon.settings import Ping
from addon.transfer import answers, kept
from addon.transfer.stream import TUNNEL
from addon.transfer.target import Target, ambiguous, connecting_to, recognise, to_the_proxy
from addon.transfer.upstream import COLLECTED, UpstreamError

logger = logging.getLogger(__name__)

ACCEPT = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
"""What a manifest request without ``Accept`` is taken to accept: a registry would else assume the oldest of them."""


class Passthrough:
    """Lets everything pass that is no blob, and no registry's."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Tunnel what is for no registry, whatever it speaks (mitmproxy's hook for CONNECT)."""
        if self._parts.settings.registry("https", flow.request.host, flow.request.port) is None:
            flow.metadata[TUNNEL] = True

    def tls_clienthello(self, hello: tls.ClientHelloData) -> None:
        """Tunnel what is for no registry: it is never decrypted."""
        context = hello.context
        if context.server.address is None:
            # The client speaks TLS to the proxy itself; where it wants to go comes next.
            return
        sni = hello.client_hello.sni
        if not connecting_to(context.client, context.server, sni, self._parts.settings):
            hello.ignore_connection = True

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Choose how a request passes, and add what it lacks; a streamed one leaves right after this hook."""
        if flow.response or flow.error or not flow.live or self._parts.upstream.owns(flow):
            return
        if ambiguous(flow.request):
            flow.response = answers.text(
                400, "pulltap: a header goes on in the next line, or has half a line's end in it\n"
            )
            flow.response.headers["Connection"] = "close"
            return
        if to_the_proxy(flow):
            return
        kept.revive(flow)
        if flow.request.scheme == "http" and isinstance(flow.client_conn.proxy_mode, mode_specs.RegularMode):
            # It was meant for this proxy, and goes no further (RFC 9110, section 11.7.2), unlike one within a tunnel.
            flow.request.headers.pop("proxy-authorization", None)
        target = recognise(flow, self._parts.settings)
        request = flow.request
        if target is None:
            request.stream = True
            return
        kind = target.route.kind
        if kind is Kind.BLOB and request.method in READ:
            return
        if kind is Kind.PING and await self._answers_pings(flow, target):
            flow.response = http.Response.make(
                200, b"{}", {"Content-Type": "application/json", "Docker-Distribution-Api-Version": "registry/2.0"}
            )
            return
        if kind is Kind.MANIFEST and request.method in READ and "accept" not in request.headers:
            request.headers["Accept"] = ", ".join(ACCEPT)
        grant = Grant(None, "")
        if kind is not Kind.PING:
            own = request.headers.get("authorization")
            try:
                grant = await self._parts.grants.grant(
                    target.registry, target.route, own, secure=target.scheme == "https", method=request.method
                )
            except TokenUnavailable as e:
                flow.response = answers.unavailable(e)
                return
        request.stream = request.method not in READ
        self._parts.send_on(flow, target, grant)

    async def _answers_pings(self, flow: http.HTTPFlow, target: Target) -> bool:
        """Whether Pulltap says itself that this client is welcome; the client then brings no credential of its own."""
        if "authorization" in flow.request.headers or self._parts.was_refused(flow, target):
            return False
        if target.registry.ping is Ping.LOCAL:
            return True
        return target.scheme == "https" and await self._parts.grants.holds_credential(target.registry)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Choose how an answer passes."""
        if flow.error or not flow.response or not flow.live or self._parts.upstream.owns(flow):
            return
        under_way = self._parts.under_way.get(flow)
        if under_way is None:
            # Answered by Pulltap or another addon, or for no registry: nothing of it is kept.
            flow.response.stream = not to_the_proxy(flow)
            return
        target, grant = under_way
        length = flow.response.headers.get("content-length", "")
        short = length.isascii() and length.isdigit() and int(length) <= COLLECTED
        if not length and flow.response.status_code == 401 and (grant.injected or not grant.authorization):
            # Read to its end, whatever its framing: it may be asked again with another token.
            short = True
        if target.route.kind is Kind.BLOB and flow.request.method in READ:
            flow.response.headers[cache_status.NAME] = self._bypass(flow)
            flow.response.stream = not (short and flow.response.status_code >= 400)
        else:
            flow.response.stream = not short and flow.request.method != "HEAD"

    async def response(self, flow: http.HTTPFlow) -> None:
        """Learn from what passed; ask once more where Pulltap's own token was refused."""
        if flow.error or not flow.response:
            return
        if under_way := self._parts.under_way.get(flow):
            target, grant = under_way
            if flow.response.status_code == 401 and not flow.response.stream:
                grant = await self._again(flow, target, grant)
            if flow.request.method in READ:
                self._learn(flow, flow.response, target, grant)
        if flow.request.method == "HEAD":
            # Answers made here have a body, whose length stays in their head (RFC 9110, section 9.3.2).
            flow.response.raw_content = b""

    async def _again(self, flow: http.HTTPFlow, target: Target, grant: Grant) -> Grant:
        """Repeat a request without a body with a fresh token; a second refusal is the client's to see.

        Returns:
            What the request carried whose answer the client gets.
        """
        assert flow.response
        if target.route.kind is Kind.PING:
            return grant
        challenges = flow.response.headers.get_all("www-authenticate")
        try:
            fresh = await self._parts.grants.renew(
                target.registry,
                target.route,
                grant,
                challenges,
                secure=target.scheme == "https",
                method=flow.request.method,
            )
            if fresh is not None:
                request = flow.request.copy()
                request.headers["Authorization"] = fresh.authorization or ""
                request.host, request.port = target.host, target.port
                purpose = "pulltap: again, with a fresh token"
                answer, _ = await self._parts.upstream.ask(request, flow.client_conn, purpose)
                flow.response = answer.copy()
                grant = fresh
        except TokenUnavailable as e:
            flow.response = answers.unavailable(e)
        except UpstreamError as e:
            flow.response = answers.unreachable(e)
        if target.route.kind is Kind.BLOB:
            flow.response.headers[cache_status.NAME] = self._bypass(flow)
        self._parts.note_refusal(flow, target, grant, flow.response)
        return grant

    def _bypass(self, flow: http.HTTPFlow) -> str:
        reason = self._parts.unstored.get(flow)
        return cache_status.bypass(reason) if reason else cache_status.BYPASS

    def _learn(self, flow: http.HTTPFlow, response: http.Response, target: Target, grant: Grant) -> None:
        route = target.route
        # Where one address serves several hosts, the answer of another one says nothing about this registry.
        named = flow.request.pretty_host.lower().rstrip(".") == target.host.lower().rstrip(".")
        if not named or route.kind is not Kind.MANIFEST:
            return
        if response.status_code in (401, 403):
            self._parts.verdicts.forget(target.identity, route.repository, grant.credential)
        elif response.status_code == 200:
            self._parts.verdicts.record(target.identity, route.repository, grant.credential)
            self._parts.learn(target, flow.request.method, response)
