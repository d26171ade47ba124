"""Whom a fill asks for its bytes: the registry, and again the place where the registry led."""

import asyncio
from typing import cast

import pytest
from mitmproxy import http

from addon.auth.grants import Grant, Grants
from addon.auth.tokens import TokenAnswer, TokenQuestion, Tokens, TokenUnavailable
from addon.transfer.addresses import Reach
from addon.transfer.source import BlobSource
from addon.transfer.target import recognise
from addon.transfer.upstream import Upstream, UpstreamError, collect

from ..doubles import HUB, FakeUpstream, Question, digest_of, request_flow, settings

DIGEST = digest_of(b"blob")
PATH = f"/v2/library/alpine/blobs/{DIGEST}"
CHALLENGE = f'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:{PATH}:pull"'


class Tokening:
    """A token service that gives out numbered tokens, as long as it works."""

    def __init__(self) -> None:
        self.given = 0
        self.status = 200

    async def fetch(self, _question: TokenQuestion) -> TokenAnswer:
        self.given += 1
        return TokenAnswer(self.status, b'{"token": "token-%d", "expires_in": 300}' % self.given)


@pytest.fixture
def service() -> Tokening:
    return Tokening()


@pytest.fixture
def grants(service: Tokening) -> Grants:
    return Grants(Tokens(service.fetch))


class Source(BlobSource):
    """A source, the upstream that the test plays, and the requests that reached it."""

    def __init__(self, grants: Grants, grant: Grant, path: str = PATH, host: str = HUB, **headers: str) -> None:
        self.upstream = FakeUpstream()
        flow = request_flow(f"https://{host}/v2/", **headers)
        flow.request.path = path
        target = recognise(flow, settings(hosts=[host]))
        assert target
        super().__init__(cast(Upstream, self.upstream), grants, target, grant, flow)

    def asking(self, start: int = 0, stop: int | None = None) -> "asyncio.Task[http.Response]":
        async def ask() -> http.Response:
            return (await self.get(start, stop, collect))[0]

        return asyncio.create_task(ask())


def own(authorization: str | None = "Bearer of the client") -> Grant:
    return Grant(authorization, "somebody")


def led_to(question: Question, url: str) -> None:
    """The question was redirected there, which the real upstream follows by itself."""
    followed = http.Request.make("GET", url)
    followed.headers.update({"Host": followed.host, "Accept-Encoding": "identity"})
    if "range" in question.request.headers:
        followed.headers["Range"] = question.request.headers["Range"]
    question.exchange.request = followed


CDN = "https://cdn.example/signed?token=1"


async def test_what_the_registry_is_asked(grants: Grants) -> None:
    source = Source(grants, own(), User_Agent="docker/29", Cookie="a=b", Accept_Encoding="gzip")
    asking = source.asking()
    question = await source.upstream.question()
    request = question.request
    assert (request.method, request.scheme, request.host, request.port, request.path) == (
        "GET",
        "https",
        HUB,
        443,
        PATH,
    )
    assert dict(request.headers) == {
        "Host": HUB,
        "User-Agent": "docker/29",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Authorization": "Bearer of the client",
    }
    assert question.purpose == f"pulltap: fill library/alpine {str(DIGEST)[:19]}"
    question.answer(200, b"blob")
    assert (await asking).status_code == 200


@pytest.mark.parametrize(
    ("start", "stop", "asked"), [(0, None, None), (7, None, "bytes=7-"), (0, 10, "bytes=0-9"), (7, 10, "bytes=7-9")]
)
async def test_which_bytes(grants: Grants, start: int, stop: int | None, asked: str | None) -> None:
    source = Source(grants, own())
    asking = source.asking(start, stop)
    question = await source.upstream.question()
    assert question.request.headers.get("range") == asked
    question.answer(206, b"")
    await asking


@pytest.mark.parametrize("query", ["?ns=docker.io", "?ns=\udcff", "?ns=é", "?a b", "#c", ";d"])
async def test_the_path_is_the_clients(grants: Grants, query: str) -> None:
    source = Source(grants, own(), path=PATH + query if query[0] == "?" else PATH + "?" + query)
    asking = source.asking()
    question = await source.upstream.question()
    assert question.request.path == source._path
    question.answer(200)
    await asking


async def test_another_port_is_named_in_host(grants: Grants) -> None:
    source = Source(grants, own(), host="registry.example:5000")
    asking = source.asking()
    question = await source.upstream.question()
    assert question.request.headers["Host"] == "registry.example:5000"
    assert (question.request.host, question.request.port) == ("registry.example", 5000)
    question.answer(200)
    await asking


async def test_a_client_without_authorization_asks_without(grants: Grants) -> None:
    source = Source(grants, own(None))
    asking = source.asking()
    question = await source.upstream.question()
    assert "Authorization" not in question.request.headers
    assert question.request.headers["User-Agent"] == "pulltap"
    question.answer(200)
    await asking


# Where the registry led.


async def test_further_bytes_are_asked_for_where_the_registry_led(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(200)
    await asking
    for number, (start, stop, span) in enumerate([(5, None, "bytes=5-"), (5, 9, "bytes=5-8")], start=1):
        asking = source.asking(start, stop)
        question = await source.upstream.question(number)
        assert question.request.url == CDN
        assert question.request.headers["Range"] == span
        assert "Authorization" not in question.request.headers
        question.answer(206)
        await asking


async def test_where_the_registry_led_is_asked_within_the_same_reach(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    assert first.reach is Reach.ANYWHERE
    led_to(first, CDN)
    first.exchange.reach = Reach.PUBLIC
    first.answer(200)
    await asking
    asking = source.asking(5)
    question = await source.upstream.question(1)
    assert (question.request.url, question.reach) == (CDN, Reach.PUBLIC)
    question.answer(403)
    # The registry is asked as ever.
    again = await source.upstream.question(2)
    assert (again.request.host, again.reach) == (HUB, Reach.ANYWHERE)
    again.answer(206)
    await asking


async def test_the_range_of_one_request_is_not_that_of_the_next(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking(5, 9)
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(206)
    await asking
    asking = source.asking()
    again = await source.upstream.question(1)
    assert again.request.url == CDN
    assert "Range" not in again.request.headers
    again.answer(200)
    await asking


async def test_a_registry_that_leads_nowhere_is_asked_again(grants: Grants) -> None:
    source = Source(grants, own())
    for number in range(2):
        asking = source.asking(number)
        question = await source.upstream.question(number)
        assert question.request.host == HUB
        question.answer(200)
        await asking


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_place_that_has_expired_is_asked_for_anew(grants: Grants, status: int) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(200)
    await asking
    asking = source.asking(5)
    (await source.upstream.question(1)).answer(status)
    fresh = await source.upstream.question(2)
    assert (fresh.request.host, fresh.request.headers["Range"]) == (HUB, "bytes=5-")
    assert fresh.request.headers["Authorization"] == "Bearer of the client"
    led_to(fresh, CDN.replace("1", "2"))
    fresh.answer(206)
    assert (await asking).status_code == 206
    asking = source.asking(6)
    third = await source.upstream.question(3)
    assert third.request.url.endswith("token=2")
    third.answer(206)
    await asking


@pytest.mark.parametrize("status", [500, 503, 307])
async def test_a_place_that_fails_is_not_asked_again(grants: Grants, status: int) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(200)
    await asking
    asking = source.asking(5)
    (await source.upstream.question(1)).answer(status)
    assert (await asking).status_code == status
    asking = source.asking(5)
    assert (await source.upstream.question(2)).request.host == HUB
    asking.cancel()


async def test_a_place_that_cannot_be_reached_is_not_asked_again(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(200)
    await asking
    asking = source.asking(5)
    (await source.upstream.question(1)).fail(UpstreamError("no route to host"))
    with pytest.raises(UpstreamError):
        await asking
    asking = source.asking(5)
    assert (await source.upstream.question(2)).request.host == HUB
    asking.cancel()


# Authorization.


async def test_the_clients_own_authorization_is_asked_with_once(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking()
    (await source.upstream.question()).answer(401, b"", WWW_Authenticate=CHALLENGE)
    assert (await asking).status_code == 401
    assert len(source.upstream.asked) == 1


async def test_a_refused_token_of_ours_is_renewed_once(grants: Grants, service: Tokening) -> None:
    source = Source(grants, Grant("Bearer old", "anonymous", injected=True))
    asking = source.asking()
    first = await source.upstream.question()
    assert first.request.headers["Authorization"] == "Bearer token-1"
    first.answer(401, b"", WWW_Authenticate=CHALLENGE)
    second = await source.upstream.question(1)
    assert second.request.headers["Authorization"] == "Bearer token-2"
    second.answer(401, b"really", WWW_Authenticate=CHALLENGE)
    response = await asking
    assert (response.status_code, response.raw_content) == (401, b"really")
    assert source.grant.renewed
    assert service.given == 2


async def test_each_request_is_given_the_token_of_its_time(grants: Grants, service: Tokening) -> None:
    source = Source(grants, Grant("Bearer old", "anonymous", injected=True))
    for number in range(2):
        asking = source.asking(number)
        question = await source.upstream.question(number)
        assert question.request.headers["Authorization"] == "Bearer token-1"
        question.answer(200)
        await asking
    assert service.given == 1


async def test_a_token_service_that_fails(grants: Grants, service: Tokening) -> None:
    service.status = 503
    source = Source(grants, Grant("Bearer old", "anonymous", injected=True))
    with pytest.raises(TokenUnavailable):
        await source.asking()
    assert not source.upstream.asked


# The question whether the blob may be read.


async def test_a_head_is_not_followed(grants: Grants) -> None:
    source = Source(grants, own())
    asking = asyncio.create_task(source.head())
    question = await source.upstream.question()
    assert (question.request.method, question.request.path) == ("HEAD", PATH)
    assert question.purpose == f"pulltap: may library/alpine {str(DIGEST)[:19]} be read?"
    question.answer(307, b"", Location=CDN)
    assert (await asking).status_code == 307
    assert len(source.upstream.asked) == 1


async def test_a_head_is_asked_of_the_registry_itself(grants: Grants) -> None:
    source = Source(grants, own())
    asking = source.asking()
    first = await source.upstream.question()
    led_to(first, CDN)
    first.answer(200)
    await asking
    heading = asyncio.create_task(source.head())
    question = await source.upstream.question(1)
    assert question.request.host == HUB
    question.answer(200)
    await heading


# A manifest, for whoever wants it without being a client.


async def test_a_manifest_is_asked_for_as_what_is_accepted(grants: Grants) -> None:
    source = Source(grants, own(), "/v2/library/alpine/manifests/latest")
    asking = asyncio.create_task(source.manifest("application/x, application/y"))
    question = await source.upstream.question()
    request = question.request
    assert (request.method, request.path) == ("GET", "/v2/library/alpine/manifests/latest")
    assert (request.headers["Accept"], request.headers["Accept-Encoding"]) == (
        "application/x, application/y",
        "identity",
    )
    assert request.headers["Authorization"] == "Bearer of the client"
    assert question.purpose == "pulltap: manifest library/alpine latest"
    question.answer(200, b"{}")
    answer = await asking
    assert (answer.status_code, answer.content) == (200, b"{}")


async def test_a_manifest_with_a_token_that_was_refused(grants: Grants, service: Tokening) -> None:
    path = "/v2/library/alpine/manifests/latest"
    source = Source(grants, Grant("Bearer old", "anonymous", injected=True), path)
    asking = asyncio.create_task(source.manifest("*/*"))
    (await source.upstream.question()).answer(401, Www_Authenticate=CHALLENGE)
    (await source.upstream.question(1)).answer(200)
    assert (await asking).status_code == 200
    assert service.given == 2
