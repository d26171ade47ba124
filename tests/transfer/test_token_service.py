"""How a question to a token service goes out, and what comes back of its answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from addon.auth.tokens import TokenAnswer, TokenQuestion
from addon.transfer.token_service import TokenService
from addon.transfer.upstream import Upstream, UpstreamError

from ..doubles import FakeUpstream, mitmproxy_with
from .origin import always, answer, origin


def service(upstream: FakeUpstream) -> TokenService:
    return TokenService(cast(Upstream, upstream))


@pytest.fixture
async def upstream() -> FakeUpstream:
    return FakeUpstream()


async def test_a_question_goes_out_as_it_is(upstream: FakeUpstream) -> None:
    url = "https://auth.example/token?service=registry.example&scope=repository:a/b:pull"
    fetch = asyncio.create_task(service(upstream).fetch(TokenQuestion("GET", url, {"Authorization": "Basic x"})))
    asked = await upstream.question()
    assert (asked.request.method, asked.request.url, asked.request.raw_content) == ("GET", url, b"")
    assert asked.request.headers["Host"] == "auth.example"
    assert "Content-Length" not in asked.request.headers
    assert asked.request.headers["Authorization"] == "Basic x"
    assert asked.request.headers["Accept"] == "application/json"
    assert asked.request.headers["Accept-Encoding"] == "identity"
    assert asked.request.headers["User-Agent"] == "pulltap"
    assert asked.purpose == "pulltap: token"
    asked.answer(200, b'{"token": "x"}')
    assert await fetch == TokenAnswer(200, b'{"token": "x"}', None)


async def test_a_form_is_posted(upstream: FakeUpstream) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    question = TokenQuestion("POST", "https://auth.example/token", kind, b"grant_type=refresh_token")
    fetch = asyncio.create_task(service(upstream).fetch(question))
    asked = await upstream.question()
    assert (asked.request.method, asked.request.raw_content) == ("POST", b"grant_type=refresh_token")
    assert asked.request.headers["Content-Length"] == "24"
    assert asked.request.headers["Content-Type"] == kind["Content-Type"]
    asked.answer(429, b"slow down", Retry_After="17")
    assert await fetch == TokenAnswer(429, b"slow down", "17")


async def test_a_redirect_is_an_answer_as_any_other(upstream: FakeUpstream) -> None:
    fetch = asyncio.create_task(service(upstream).fetch(TokenQuestion("GET", "https://auth.example/", {})))
    (await upstream.question()).answer(307, Location="https://elsewhere.example/")
    assert (await fetch).status == 307
    assert len(upstream.asked) == 1


async def test_no_answer(upstream: FakeUpstream) -> None:
    fetch = asyncio.create_task(service(upstream).fetch(TokenQuestion("GET", "https://auth.example/", {})))
    (await upstream.question()).fail(UpstreamError("no route to host", 504))
    with pytest.raises(OSError, match="no route to host"):
        await fetch


@pytest.mark.parametrize("url", ["https:///token", "https://auth.example:99999/", "https://[/", "https://é.example/é"])
async def test_an_address_that_is_none(upstream: FakeUpstream, url: str) -> None:
    with pytest.raises(OSError, match="its address is none"):
        await service(upstream).fetch(TokenQuestion("GET", url, {}))
    assert not upstream.asked


@pytest.fixture
async def real(tidy: None) -> AsyncIterator[TokenService]:
    with mitmproxy_with():
        yield TokenService(Upstream())


async def test_over_a_real_connection(real: TokenService) -> None:
    async with origin(always(answer("200 OK", b'{"token": "x"}'))) as there:
        question = TokenQuestion("GET", f"{there.url}/token?scope=a", {"Authorization": "Basic x"})
        assert await real.fetch(question) == TokenAnswer(200, b'{"token": "x"}', None)
    (head,) = there.heads
    assert head.startswith("GET /token?scope=a HTTP/1.1\n")
    assert f"host: 127.0.0.1:{there.port}\n" in head.lower()
    assert "Authorization: Basic x\n" in head
