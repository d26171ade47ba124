import asyncio
import base64
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.auth.credentials import Credential
from addon.auth.tokens import Realm, TokenAnswer, TokenQuestion, TokenRefused, Tokens, TokenUnavailable, waiting_time

from ..doubles import Clock
from .fakes import Service, answer, settle

REALM = Realm("https://auth.example.com/token", "registry.example.com")
SCOPE = "repository:library/alpine:pull"
ALICE = Credential("alice", "secret")


@pytest.fixture
def tokens(service: Service, clock: Clock) -> Tokens:
    return Tokens(service.fetch, clock)


# What is asked.


async def test_an_anonymous_question(tokens: Tokens, service: Service) -> None:
    assert await tokens.get(REALM, SCOPE) == "token-1"
    expected = "https://auth.example.com/token?service=registry.example.com&scope=repository%3Alibrary%2Falpine%3Apull"
    assert service.questions == [TokenQuestion("GET", expected, {})]


async def test_a_question_with_a_password(tokens: Tokens, service: Service) -> None:
    await tokens.get(REALM, SCOPE, Credential("álice", "se:cret"))
    question = service.questions[0]
    assert question.method == "GET"
    scheme, _, encoded = question.headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(encoded).decode()) == ("Basic", "álice:se:cret")
    assert service.queries[0] == [("service", REALM.service), ("account", "álice"), ("scope", SCOPE)]


async def test_a_question_with_an_identity_token(tokens: Tokens, service: Service) -> None:
    await tokens.get(REALM, SCOPE, Credential("<token>", identity_token="a+b/c="))
    question = service.questions[0]
    assert (question.method, question.url) == ("POST", REALM.url)
    assert question.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert dict(parse_qsl(question.body.decode())) == {
        "grant_type": "refresh_token",
        "refresh_token": "a+b/c=",
        "client_id": "pulltap",
        "service": REALM.service,
        "scope": SCOPE,
    }


async def test_several_scopes_are_several_parameters(tokens: Tokens, service: Service) -> None:
    await tokens.get(REALM, "repository:a:pull repository:b:pull")
    assert [value for name, value in service.queries[0] if name == "scope"] == [
        "repository:a:pull",
        "repository:b:pull",
    ]


async def test_what_is_not_known_is_not_sent(tokens: Tokens, service: Service) -> None:
    await tokens.get(Realm("https://auth.example.com/token", ""), "")
    assert service.queries == [[]]


async def test_a_realm_keeps_the_query_that_it_has(tokens: Tokens, service: Service) -> None:
    await tokens.get(Realm("https://auth.example.com/token?tenant=1", "s"), SCOPE)
    assert service.queries[0] == [("tenant", "1"), ("service", "s"), ("scope", SCOPE)]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://auth.docker.io/token", "auth.docker.io"),
        ("https://Auth.Docker.IO:443/token", "auth.docker.io"),
        ("https://auth.example.com:5001/token", "auth.example.com:5001"),
        ("https://auth.example.com:80/token", "auth.example.com:80"),
        ("https://auth.example.com:0/token", "auth.example.com:0"),
        ("https://auth.docker.io@evil.example/token", "evil.example"),
        ("https://evil.example/@auth.docker.io", "evil.example"),
        ("https://evil.example?@auth.docker.io/", "evil.example"),
        ("https://evil.example#@auth.docker.io/", "evil.example"),
        ("https://[::1]:5001/token", "[::1]:5001"),
        ("https://[::1]/token", "[::1]"),
        ("/token", ""),
    ],
)
def test_the_host_of_a_realm(url: str, host: str) -> None:
    assert Realm(url, "").host == host


# What is kept.


@pytest.mark.parametrize(
    ("lifetime", "kept"),
    [
        # Until a tenth of its life is left,
        (300, 270),
        (60, 54),
        ("100", 90),
        # but no more than half a minute;
        (3600, 3570),
        (10**9, 10**9 - 30),
        # a minute where it does not say.
        (None, 54),
        (0, 54),
        ("", 54),
    ],
)
async def test_a_token_is_kept_until_shortly_before_its_end(
    tokens: Tokens, service: Service, clock: Clock, lifetime: object, kept: float
) -> None:
    service.lifetime = lifetime
    assert await tokens.get(REALM, SCOPE) == "token-1"
    clock.now += kept - 0.5
    assert await tokens.get(REALM, SCOPE) == "token-1"
    clock.now += 1
    assert await tokens.get(REALM, SCOPE) == "token-2"


async def test_an_answer_without_a_lifetime_is_good_for_a_minute(
    tokens: Tokens, service: Service, clock: Clock
) -> None:
    service.answers = [answer({"token": "t"})]
    assert await tokens.get(REALM, SCOPE) == "t"
    clock.now += 53
    assert await tokens.get(REALM, SCOPE) == "t"
    clock.now += 2
    assert await tokens.get(REALM, SCOPE) == "token-2"


@pytest.mark.parametrize("lifetime", [-1, -(10**9), float("nan")])
async def test_a_token_without_a_future_is_used_once(tokens: Tokens, service: Service, lifetime: float) -> None:
    service.lifetime = lifetime
    assert await tokens.get(REALM, SCOPE) == "token-1"
    assert await tokens.get(REALM, SCOPE) == "token-2"


async def test_a_life_begins_when_the_token_arrives(tokens: Tokens, service: Service, clock: Clock) -> None:
    service.open.clear()
    waiting = asyncio.create_task(tokens.get(REALM, SCOPE))
    await service.asked.wait()
    clock.now += 100
    service.open.set()
    await waiting
    clock.now += 269
    assert await tokens.get(REALM, SCOPE) == "token-1"


@pytest.mark.parametrize(
    ("realm", "scope", "credential"),
    [
        (Realm("https://other.example.com/token", REALM.service), SCOPE, ALICE),
        (Realm(REALM.url, "other"), SCOPE, ALICE),
        (REALM, "repository:library/alpine:pull,push", ALICE),
        (REALM, SCOPE, None),
        (REALM, SCOPE, Credential("bob", "secret")),
        (REALM, SCOPE, Credential("alice", "another")),
        (REALM, SCOPE, Credential("alice", identity_token="secret")),
    ],
)
async def test_a_token_serves_for_nothing_else(
    tokens: Tokens, service: Service, realm: Realm, scope: str, credential: Credential | None
) -> None:
    assert await tokens.get(REALM, SCOPE, ALICE) == "token-1"
    assert await tokens.get(realm, scope, credential) == "token-2"
    assert await tokens.get(REALM, SCOPE, Credential("alice", "secret")) == "token-1"
    assert len(service.questions) == 2


async def test_a_hundred_at_once_ask_once(tokens: Tokens, service: Service) -> None:
    service.open.clear()
    waiting = [asyncio.create_task(tokens.get(REALM, SCOPE)) for _ in range(100)]
    await service.asked.wait()
    await settle()
    service.open.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert len(service.questions) == 1


async def test_one_who_stops_waiting_does_not_take_the_token_from_the_others(tokens: Tokens, service: Service) -> None:
    service.open.clear()
    first, second = (asyncio.create_task(tokens.get(REALM, SCOPE)) for _ in range(2))
    await service.asked.wait()
    await settle()
    first.cancel()
    await settle()
    service.open.set()
    assert await second == "token-1"
    assert first.cancelled()


async def test_a_token_that_nobody_waits_for_any_more_is_kept(tokens: Tokens, service: Service) -> None:
    service.open.clear()
    waiting = asyncio.create_task(tokens.get(REALM, SCOPE))
    await service.asked.wait()
    waiting.cancel()
    service.open.set()
    await settle()
    assert await tokens.get(REALM, SCOPE) == "token-1"


async def test_a_failure_is_seen_by_all_and_not_kept(tokens: Tokens, service: Service) -> None:
    service.open.clear()
    service.answers = [OSError("no route to host")]
    waiting = [asyncio.create_task(tokens.get(REALM, SCOPE)) for _ in range(3)]
    await service.asked.wait()
    await settle()
    service.open.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TokenUnavailable] * 3
    assert len(service.questions) == 1
    assert await tokens.get(REALM, SCOPE) == "token-2"


# What is given up.


async def test_a_refused_token_is_forgotten(tokens: Tokens) -> None:
    assert await tokens.get(REALM, SCOPE) == "token-1"
    tokens.discard(REALM, SCOPE, None, "token-1")
    assert await tokens.get(REALM, SCOPE) == "token-2"


async def test_only_the_refused_token_is_forgotten(tokens: Tokens) -> None:
    # Of ten requests that are refused with one token, the first renews it, and the other nine come too late.
    await tokens.get(REALM, SCOPE)
    tokens.discard(REALM, SCOPE, None, "token-1")
    assert await tokens.get(REALM, SCOPE) == "token-2"
    tokens.discard(REALM, SCOPE, None, "token-1")
    assert await tokens.get(REALM, SCOPE) == "token-2"


@pytest.mark.parametrize(
    ("realm", "scope", "credential"),
    [(Realm(REALM.url, "other"), SCOPE, None), (REALM, "", None), (REALM, SCOPE, ALICE)],
)
async def test_a_token_of_the_same_value_elsewhere_stays(
    tokens: Tokens, realm: Realm, scope: str, credential: Credential | None
) -> None:
    await tokens.get(REALM, SCOPE)
    tokens.discard(realm, scope, credential, "token-1")
    assert await tokens.get(REALM, SCOPE) == "token-1"


# What the token service may say.


@pytest.mark.parametrize(
    ("content", "token"),
    [
        ({"token": "t"}, "t"),
        ({"access_token": "t"}, "t"),
        ({"token": "t", "access_token": "other"}, "t"),
        ({"token": "", "access_token": "t"}, "t"),
        ({"token": None, "access_token": "t"}, "t"),
        (
            {"token": "eyJ.eyJ-_.sig", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z", "more": []},
            "eyJ.eyJ-_.sig",
        ),
    ],
)
async def test_tokens_by_either_name(tokens: Tokens, service: Service, content: object, token: str) -> None:
    service.answers = [answer(content)]
    assert await tokens.get(REALM, SCOPE) == token


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"<html>",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"token"',
        b"{}",
        b'{"token": ""}',
        b'{"token": "", "access_token": ""}',
        b'{"token": null}',
        b'{"token": 5}',
        b'{"token": ["t"]}',
        b'{"token": {"a": 1}}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b'{"token": "a\\u0000"}',
        b'{"token": "\\u00e9"}',
        b'{"token": "t", "expires_in": "soon"}',
        b'{"token": "t", "expires_in": [1]}',
        b'{"token": "t", "expires_in": {"s": 1}}',
        b'{"token": "t", "expires_in": 1' + b"0" * 400 + b"}",
        b'{"token": "t", "expires_in": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"token":' * 100_000,
    ],
)
async def test_what_is_no_token_is_not_used(tokens: Tokens, service: Service, body: bytes) -> None:
    service.answers = [TokenAnswer(200, body)]
    with pytest.raises(TokenUnavailable, match=r"auth\.example\.com sent") as failed:
        await tokens.get(REALM, SCOPE)
    assert failed.value.status == 503
    assert len(str(failed.value)) < 200
    assert await tokens.get(REALM, SCOPE) == "token-2"


@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner) | st.dictionaries(st.sampled_from(["token", "access_token", "expires_in"]), inner)
            ),
        ).map(lambda content: answer(content).body),
    )
)
def test_any_body_is_a_token_or_a_failure(body: bytes) -> None:
    async def ask() -> None:
        service = Service()
        service.answers = [TokenAnswer(200, body)]
        try:
            token = await Tokens(service.fetch).get(REALM, SCOPE)
        except TokenUnavailable:
            return
        assert token
        assert all(" " <= character <= "~" for character in token)

    asyncio.run(ask())


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal(tokens: Tokens, service: Service, status: int) -> None:
    service.answers = [TokenAnswer(status, b"{}")]
    with pytest.raises(TokenRefused, match=rf"auth\.example\.com refused.*\({status}\)"):
        await tokens.get(REALM, SCOPE, ALICE)
    assert await tokens.get(REALM, SCOPE, ALICE) == "token-2"


@pytest.mark.parametrize(
    ("said", "status", "retry_after"),
    [
        (TokenAnswer(429, b"toomanyrequests", "7"), 429, "7"),
        (TokenAnswer(429, b""), 429, "10"),
        (TokenAnswer(500, b""), 503, "10"),
        (TokenAnswer(502, b"<html>"), 503, "10"),
        (TokenAnswer(503, b"", "120"), 503, "120"),
        # A redirect is not followed, and whatever else comes is not understood.
        (TokenAnswer(301, b""), 503, "10"),
        (TokenAnswer(204, b'{"token": "t"}'), 503, "10"),
        (TokenAnswer(418, b'{"token": "t"}'), 503, "10"),
        (OSError("no route to host"), 503, "10"),
        (TimeoutError("took too long"), 503, "10"),
    ],
)
async def test_the_token_service_failing(
    tokens: Tokens, service: Service, said: TokenAnswer | Exception, status: int, retry_after: str
) -> None:
    service.answers = [said]
    with pytest.raises(TokenUnavailable, match=r"auth\.example\.com") as failed:
        await tokens.get(REALM, SCOPE, ALICE)
    assert (failed.value.status, failed.value.retry_after) == (status, retry_after)
    assert await tokens.get(REALM, SCOPE, ALICE) == "token-2"


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_no_message_tells_a_secret_or_ends_a_line(tokens: Tokens, service: Service, status: int) -> None:
    service.answers = [TokenAnswer(status, b"secret")]
    with pytest.raises((TokenRefused, TokenUnavailable)) as failed:
        await tokens.get(REALM, "repository:a\n\x1b[31m:pull", ALICE)
    assert "secret" not in str(failed.value)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, "10"),
        ("", "10"),
        ("7", "7"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("7\r\n X-Injected: 1", "10"),
        ("7" * 100, "10"),
        ("soon; maybe", "10"),
    ],
)
def test_what_a_client_is_told_about_when_to_come_again(said: str | None, told: str) -> None:
    assert waiting_time(said) == TokenUnavailable("limits", 429, said).retry_after == told


async def test_a_token_without_end_is_none(tokens: Tokens, service: Service) -> None:
    service.answers = [answer({"token": "x" * 65536}), answer({"token": "x" * 65537})]
    assert len(await tokens.get(REALM, SCOPE)) == 65536
    with pytest.raises(TokenUnavailable, match="sent a token of 65537 characters"):
        await tokens.get(REALM, "repository:other:pull")
