"""Proxies as far as they answer requests for blobs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mitmproxy import http

from addon.parts import Parts
from addon.pullthrough import Pullthrough
from addon.registry.digest import Digest
from addon.transfer import stream
from addon.transfer.body import BodyBroken

from ..doubles import BOUND, HUB, request_flow

CONTENT = bytes(range(256)) * 40
REPOSITORY = "library/alpine"
MISS = "pulltap; fwd=miss; stored"
HIT = "pulltap; hit"
JOIN = "pulltap; fwd=miss; collapsed"
BYPASS = "pulltap; fwd=bypass"


@dataclass
class Reply:
    """What the client is given; `status` is 0 for a request that goes upstream as it is."""

    status: int
    how: str | None
    body: bytes | None
    flow: http.HTTPFlow

    @property
    def headers(self) -> http.Headers:
        assert self.flow.response
        return self.flow.response.headers


class Proxy:
    """The hook, with its parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.hook = Pullthrough(parts)

    async def ask(
        self, digest: Digest | str, repository: str = REPOSITORY, method: str = "GET", host: str = HUB, **headers: str
    ) -> Reply:
        """A client's request, and its answer to the last byte."""
        flow = request_flow(f"https://{host}/v2/{repository}/blobs/{digest}", method, **headers)
        await asyncio.wait_for(self.hook.request(flow), BOUND)
        if flow.response is None:
            return Reply(0, None, None, flow)
        body = stream._bodies.pop(flow.response, None)
        content = bytearray(flow.response.raw_content or b"")
        if body is not None:
            try:
                async with asyncio.timeout(BOUND):
                    while not body.ended:
                        content += (piece := body.read())
                        if not piece:
                            await body.wait()
            except BodyBroken:
                content += b" (broken)"
            finally:
                body.close()
        return Reply(flow.response.status_code, flow.response.headers.get("Cache-Status"), bytes(content), flow)

    async def settled(self) -> None:
        """Wait until no fill is under way."""
        async with asyncio.timeout(BOUND):
            while self.parts.fills._running:
                await asyncio.wait(self.parts.fills._running)
                await asyncio.sleep(0)


Start = Callable[..., Proxy]
