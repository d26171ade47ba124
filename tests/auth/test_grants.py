import asyncio
import json
import logging
import os
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest

from addon.auth.access import ANONYMOUS, credential_of
from addon.auth.grants import Grant, Grants, scope_of
from addon.auth.tokens import TokenAnswer, Tokens, TokenUnavailable
from addon.registry.routes import Kind, Route
from addon.settings import DOCKER_HUB, Auth, Registry, parse_registries

from ..doubles import Clock, settings
from .fakes import Service, settle

MANIFEST = Route(Kind.MANIFEST, "library/alpine", "latest")
PULL = "repository:library/alpine:pull"
GHCR = Registry("ghcr.io", auth=Auth.INJECT)
CHALLENGE = 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:evil:pull,push"'
BASIC = "Basic " + b64encode(b"alice:secret").decode()
REFUSED = TokenAnswer(401, b"{}")


@pytest.fixture
def grants(service: Service, clock: Clock) -> Grants:
    return Grants(Tokens(service.fetch, clock), clock)


@pytest.fixture
def login(tmp_path: Path) -> Path:
    """A `config.json` with Alice's password for everything."""
    path = tmp_path / "config.json"
    auth = {"auth": BASIC.removeprefix("Basic ")}
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": auth, "ghcr.io": auth}}))
    return path


def anonymous(token: str) -> Grant:
    return Grant(f"Bearer {token}", ANONYMOUS, injected=True)


def alices(token: str) -> Grant:
    return Grant(f"Bearer {token}", "injected alice", injected=True)


@pytest.mark.parametrize(
    ("route", "method", "scope"),
    [
        (MANIFEST, "GET", PULL),
        (MANIFEST, "HEAD", PULL),
        (MANIFEST, "PUT", "repository:library/alpine:pull,push"),
        (MANIFEST, "DELETE", "repository:library/alpine:delete"),
        (Route(Kind.BLOB, "a", "sha256:x"), "GET", "repository:a:pull"),
        (Route(Kind.TAGS, "a"), "GET", "repository:a:pull"),
        (Route(Kind.REFERRERS, "a", "sha256:x"), "GET", "repository:a:pull"),
        (Route(Kind.UPLOAD, "a"), "POST", "repository:a:pull,push"),
        (Route(Kind.CATALOG), "GET", "registry:catalog:*"),
        (Route(Kind.PING), "GET", ""),
        (Route(Kind.OTHER), "GET", ""),
    ],
)
def test_scopes(route: Route, method: str, scope: str) -> None:
    assert scope_of(route, method) == scope


# What the client brings.


@pytest.mark.parametrize("own", ["Bearer theirs", "Basic dTpw", "Bearer", ""])
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_the_clients_own_authorization_wins(
    grants: Grants, service: Service, login: Path, own: str, method: str
) -> None:
    hub = replace(DOCKER_HUB, credentials=login)
    grant = await grants.grant(hub, MANIFEST, own, secure=True, method=method)
    assert grant == Grant(own, credential_of(own))
    assert not grant.injected
    assert await grants.renew(hub, MANIFEST, grant, [CHALLENGE], secure=True) is None
    assert service.questions == []


async def test_passthrough_is_left_alone(grants: Grants, service: Service, login: Path) -> None:
    registry = Registry("ghcr.io", auth=Auth.PASSTHROUGH, credentials=login)
    grant = await grants.grant(registry, MANIFEST, None, secure=True)
    assert grant == Grant(None, ANONYMOUS)
    assert await grants.renew(registry, MANIFEST, grant, [CHALLENGE], secure=True) is None
    assert service.questions == []


# Docker Hub, whose token service is known.


async def test_the_hub_needs_no_challenge(grants: Grants, service: Service) -> None:
    assert await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True) == anonymous("token-1")
    assert service.questions[0].url.startswith("https://auth.docker.io/token?")
    assert service.queries == [[("service", "registry.docker.io"), ("scope", PULL)]]
    assert "Authorization" not in service.questions[0].headers


async def test_no_challenge_moves_the_hubs_token_service(grants: Grants, service: Service, login: Path) -> None:
    hub = replace(DOCKER_HUB, credentials=login, realms=("auth.docker.io", "evil.example"))
    grant = await grants.grant(hub, MANIFEST, None, secure=True)
    evil = ['Bearer realm="https://evil.example/token",service="x"', 'Basic realm="y"']
    assert await grants.renew(hub, MANIFEST, grant, evil, secure=True) == replace(alices("token-2"), renewed=True)
    assert {question.url.partition("?")[0] for question in service.questions} == {"https://auth.docker.io/token"}


async def test_the_configured_credential_is_used(grants: Grants, service: Service, login: Path) -> None:
    hub = replace(DOCKER_HUB, credentials=login)
    assert await grants.grant(hub, MANIFEST, None, secure=True) == alices("token-1")
    assert service.questions[0].headers["Authorization"] == BASIC
    # Whose token it is, is part of its name: nobody else is given Alice's.
    assert await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True) == anonymous("token-2")


async def test_no_credential_goes_over_plain_http(grants: Grants, service: Service, login: Path) -> None:
    hub = replace(DOCKER_HUB, credentials=login)
    grant = await grants.grant(hub, MANIFEST, None, secure=False)
    assert grant == anonymous("token-1")
    again = await grants.renew(hub, MANIFEST, grant, [CHALLENGE], secure=False)
    assert again == replace(anonymous("token-2"), renewed=True)
    assert all("Authorization" not in question.headers for question in service.questions)
    assert await grants.grant(hub, MANIFEST, None, secure=False, method="PUT") == Grant(None, ANONYMOUS)


async def test_a_write_needs_a_credential(grants: Grants, service: Service, login: Path) -> None:
    assert await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True, method="PUT") == Grant(None, ANONYMOUS)
    assert service.questions == []
    hub = replace(DOCKER_HUB, credentials=login)
    assert await grants.grant(hub, MANIFEST, None, secure=True, method="PUT") == alices("token-1")
    assert dict(service.queries[0])["scope"] == "repository:library/alpine:pull,push"


async def test_a_write_that_was_refused_lets_the_next_one_pass(grants: Grants, login: Path) -> None:
    hub = replace(DOCKER_HUB, credentials=login)
    grant = await grants.grant(hub, MANIFEST, None, secure=True, method="PUT")
    assert await grants.renew(hub, MANIFEST, grant, [CHALLENGE], secure=True, method="PUT") is None
    assert await grants.grant(hub, MANIFEST, None, secure=True, method="PUT") == alices("token-2")


async def test_a_refused_token_is_renewed_once(grants: Grants, service: Service) -> None:
    grant = await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True)
    again = await grants.renew(DOCKER_HUB, MANIFEST, grant, [], secure=True)
    assert again == replace(anonymous("token-2"), renewed=True)
    assert await grants.renew(DOCKER_HUB, MANIFEST, again, [], secure=True) is None
    assert len(service.questions) == 2
    assert await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True) == anonymous("token-2")


async def test_ten_that_are_refused_together_ask_once(grants: Grants, service: Service) -> None:
    grant = await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True)
    service.open.clear()
    waiting = [asyncio.create_task(grants.renew(DOCKER_HUB, MANIFEST, grant, [], secure=True)) for _ in range(10)]
    await settle()
    service.open.set()
    assert set(await asyncio.gather(*waiting)) == {replace(anonymous("token-2"), renewed=True)}
    # One of them comes late.
    late = await grants.renew(DOCKER_HUB, MANIFEST, grant, [], secure=True)
    assert late == replace(anonymous("token-2"), renewed=True)
    assert len(service.questions) == 2


async def test_the_same_token_again_is_not_worth_a_request(grants: Grants, service: Service) -> None:
    same = TokenAnswer(200, b'{"token": "same"}')
    service.answers = [same, same]
    grant = await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True)
    assert await grants.renew(DOCKER_HUB, MANIFEST, grant, [], secure=True) is None


async def test_a_refusing_token_service_leaves_the_registry_to_say_so(
    grants: Grants, service: Service, login: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.answers = [REFUSED, REFUSED]
    hub = replace(DOCKER_HUB, credentials=login)
    grant = await grants.grant(hub, MANIFEST, None, secure=True)
    # Under no name that could inherit what Alice may.
    assert grant == Grant(None, ANONYMOUS, injected=True)
    assert "auth.docker.io refused a token" in caplog.text
    assert await grants.renew(hub, MANIFEST, grant, [], secure=True) is None
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("status", "told"), [(429, 429), (500, 503)])
async def test_a_failing_token_service_is_not_the_clients_fault(
    grants: Grants, service: Service, status: int, told: int
) -> None:
    service.answers = [TokenAnswer(status, b"", "7")]
    with pytest.raises(TokenUnavailable) as failed:
        await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True)
    assert (failed.value.status, failed.value.retry_after) == (told, "7")
    grant = await grants.grant(DOCKER_HUB, MANIFEST, None, secure=True)
    service.answers = [TokenAnswer(status, b"")]
    with pytest.raises(TokenUnavailable):
        await grants.renew(DOCKER_HUB, MANIFEST, grant, [], secure=True)


# Other registries, whose token services are learned.


async def test_a_challenge_is_learned(grants: Grants, service: Service, clock: Clock) -> None:
    grant = await grants.grant(GHCR, MANIFEST, None, secure=True)
    assert grant == Grant(None, ANONYMOUS)
    assert service.questions == []
    again = await grants.renew(GHCR, MANIFEST, grant, [CHALLENGE], secure=True)
    assert again == replace(anonymous("token-1"), renewed=True)
    # The scope is the request's own, whatever the challenge says.
    assert service.questions[0].url.startswith("https://ghcr.io/token?")
    assert service.queries == [[("service", "ghcr.io"), ("scope", PULL)]]
    # From then on, for an hour, a request has its token at once.
    clock.now += 3599
    assert await grants.grant(GHCR, MANIFEST, None, secure=True) == anonymous("token-2")
    clock.now += 1
    assert await grants.grant(GHCR, MANIFEST, None, secure=True) == Grant(None, ANONYMOUS)
    # Of another registry, nothing was learned.
    quay = Registry("quay.io", auth=Auth.INJECT)
    assert await grants.grant(quay, MANIFEST, None, secure=True) == Grant(None, ANONYMOUS)


@pytest.mark.parametrize("lines", [[], ["Bearer"], ['Bearer service="x"'], ["Negotiate"], ["nonsense ="]])
async def test_a_401_without_a_usable_challenge(grants: Grants, service: Service, lines: list[str]) -> None:
    assert await grants.renew(GHCR, MANIFEST, Grant(None, ANONYMOUS), lines, secure=True) is None
    assert service.questions == []


@pytest.mark.parametrize(
    ("host", "realms", "realm"),
    [
        ("ghcr.io", (), "https://ghcr.io/token"),
        ("ghcr.io", (), "https://GHCR.io:443/token"),
        ("registry.gitlab.com", ("gitlab.com",), "https://gitlab.com/jwt/auth"),
        ("localhost:5000", ("localhost:5001",), "https://localhost:5001/token"),
        ("[::1]:5000", (), "https://[::1]:5000/token"),
    ],
)
async def test_realms_that_are_asked(
    grants: Grants, service: Service, host: str, realms: tuple[str, ...], realm: str
) -> None:
    registry = Registry(host, auth=Auth.INJECT, realms=realms)
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [f'Bearer realm="{realm}"'], secure=True)
    assert again == replace(anonymous("token-1"), renewed=True)
    assert service.questions[0].url.startswith(f"{realm}?")


@pytest.mark.parametrize(
    "realm",
    [
        "https://evil.example/token",
        "https://ghcr.io.evil.example/token",
        "https://ghcr.io@evil.example/token",
        "https://evil.example/https://ghcr.io/token",
        "https://evil.example#@ghcr.io/",
        "https://ghcr.io:8443/token",
        "https://auth.docker.io/token",
        "http://ghcr.io/token",
        "HTTP://ghcr.io/token",
        "ftp://ghcr.io/token",
        "//ghcr.io/token",
        "ghcr.io/token",
        "/token",
        "https://",
        "https://[ghcr.io/token",
        "https://ghcr.io:port/token",
        "https://ghcr.io:99999/token",
    ],
)
async def test_realms_that_are_not_asked(
    grants: Grants, service: Service, login: Path, caplog: pytest.LogCaptureFixture, realm: str
) -> None:
    registry = replace(GHCR, credentials=login)
    challenge = f'Bearer realm="{realm}",service="ghcr.io"'
    assert await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [challenge], secure=True) is None
    assert await grants.grant(registry, MANIFEST, None, secure=True) == Grant(None, "injected alice")
    assert service.questions == []
    assert "registries.ghcr.io.realms" in caplog.text
    assert "secret" not in caplog.text


async def test_a_password_goes_to_the_realm(grants: Grants, service: Service, login: Path) -> None:
    registry = replace(GHCR, credentials=login)
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [CHALLENGE], secure=True)
    assert again == replace(alices("token-1"), renewed=True)
    assert service.questions[0].headers["Authorization"] == BASIC


# Registries that want the password itself.


async def test_basic(grants: Grants, service: Service, login: Path) -> None:
    registry = replace(GHCR, credentials=login)
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), ['Basic realm="x"'], secure=True)
    assert again == Grant(BASIC, "injected alice", injected=True, renewed=True)
    grant = await grants.grant(registry, MANIFEST, None, secure=True)
    assert grant == Grant(BASIC, "injected alice", injected=True)
    # A wrong password is not tried twice.
    assert await grants.renew(registry, MANIFEST, grant, ['Basic realm="x"'], secure=True) is None
    assert service.questions == []


async def test_no_password_for_plain_http(grants: Grants, login: Path) -> None:
    registry = replace(GHCR, credentials=login)
    nothing = Grant(None, ANONYMOUS)
    assert await grants.renew(registry, MANIFEST, nothing, ['Basic realm="x"'], secure=False) is None
    assert await grants.grant(registry, MANIFEST, None, secure=False) == nothing


async def test_no_password_no_answer_to_basic(grants: Grants) -> None:
    assert await grants.renew(GHCR, MANIFEST, Grant(None, ANONYMOUS), ['Basic realm="x"'], secure=True) is None


async def test_an_identity_token_is_no_password(grants: Grants, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"ghcr.io": {"identitytoken": "secret"}}}))
    registry = replace(GHCR, credentials=path)
    assert await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), ['Basic realm="x"'], secure=True) is None


async def test_a_token_goes_before_a_password(grants: Grants, service: Service, login: Path) -> None:
    registry = replace(GHCR, credentials=login)
    lines = ['Basic realm="x"', CHALLENGE]
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), lines, secure=True)
    assert again == replace(alices("token-1"), renewed=True)


# The configured credential.


async def test_holding_a_credential(grants: Grants, login: Path) -> None:
    assert await grants.holds_credential(replace(DOCKER_HUB, credentials=login))
    assert not await grants.holds_credential(DOCKER_HUB)
    assert not await grants.holds_credential(Registry("quay.io", credentials=login))


async def test_a_store_of_credentials_holds_those_that_it_gives(
    grants: Grants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-two"
    helper.write_text(
        '#!/bin/sh\nread address\ncase $address in quay.io) echo \'{"Username":"a","Secret":"b"}\' ;;'
        " *) echo credentials not found in native keychain; exit 1 ;; esac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = tmp_path / "config.json"
    config.write_text('{"credsStore": "two"}')
    assert await grants.holds_credential(Registry("quay.io", credentials=config))
    assert not await grants.holds_credential(Registry("ghcr.io", credentials=config))


async def test_a_file_that_cannot_be_read_is_told_and_done_without(
    grants: Grants, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = replace(DOCKER_HUB, credentials=tmp_path / "gone.json")
    assert not await grants.holds_credential(hub)
    assert await grants.grant(hub, MANIFEST, None, secure=True) == anonymous("token-1")
    assert await grants.grant(hub, MANIFEST, None, secure=True, method="PUT") == Grant(None, ANONYMOUS)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "gone.json" in caplog.text


async def test_a_login_counts_at_once(grants: Grants, login: Path) -> None:
    away = login.with_suffix(".away")
    hub = replace(DOCKER_HUB, credentials=away)
    assert await grants.grant(hub, MANIFEST, None, secure=True) == anonymous("token-1")
    os.link(login, away)
    assert await grants.holds_credential(hub)
    assert await grants.grant(hub, MANIFEST, None, secure=True) == alices("token-2")


# Who asks, and the registries as they are.


async def test_who_asks_is_known_without_a_token(grants: Grants, service: Service, login: Path) -> None:
    hub = replace(DOCKER_HUB, credentials=login)
    assert await grants.asker(hub, "Bearer theirs", secure=True) == credential_of("Bearer theirs")
    assert await grants.asker(hub, None, secure=True) == "injected alice"
    # Over plain HTTP, no credential goes out.
    assert await grants.asker(hub, None, secure=False) == ANONYMOUS
    assert await grants.asker(DOCKER_HUB, None, secure=True) == ANONYMOUS
    passing = replace(GHCR, auth=Auth.PASSTHROUGH, credentials=login)
    assert await grants.asker(passing, None, secure=True) == ANONYMOUS
    assert service.questions == []


async def test_what_is_granted_is_kept_under_the_name_of_who_asks(grants: Grants, login: Path) -> None:
    registry = replace(GHCR, credentials=login)
    name = await grants.asker(registry, None, secure=True)
    first = await grants.grant(registry, MANIFEST, None, secure=True)
    assert first == Grant(None, name)
    again = await grants.renew(registry, MANIFEST, first, [CHALLENGE], secure=True)
    assert again
    assert again.credential == name


# As these registries send them, quoting, order and case included.
CHALLENGES = {
    "ghcr.io": (
        'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:library/alpine:pull"',
        "https://ghcr.io/token",
        "ghcr.io",
    ),
    "quay.io": (
        'Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:library/alpine:pull"',
        "https://quay.io/v2/auth",
        "quay.io",
    ),
    "gcr.io": (
        'Bearer realm="https://gcr.io/v2/token",service="gcr.io",scope="repository:library/alpine:pull"',
        "https://gcr.io/v2/token",
        "gcr.io",
    ),
    "public.ecr.aws": (
        'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"',
        "https://public.ecr.aws/token/",
        "public.ecr.aws",
    ),
    "registry.gitlab.com": (
        'Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="a:b:c",error="invalid_token"',
        "https://gitlab.com/jwt/auth",
        "container_registry",
    ),
}


@pytest.mark.parametrize("host", CHALLENGES)
async def test_one_line_is_enough_for_a_public_registry(grants: Grants, service: Service, host: str) -> None:
    line, url, name = CHALLENGES[host]
    registry = parse_registries({host: {"auth": "inject"}})[host]
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [line], secure=True)
    assert again == replace(anonymous("token-1"), renewed=True)
    assert service.questions[0].url.startswith(f"{url}?")
    assert service.queries == [[("service", name), ("scope", PULL)]]


@pytest.mark.parametrize("host", ["registry.k8s.io", "mcr.microsoft.com"])
async def test_registries_that_want_no_token(grants: Grants, service: Service, host: str) -> None:
    registry = parse_registries({host: {"auth": "inject"}})[host]
    assert await grants.grant(registry, MANIFEST, None, secure=True) == Grant(None, ANONYMOUS)
    assert service.questions == []


@pytest.mark.parametrize("host", [*CHALLENGES, "registry.k8s.io", "mcr.microsoft.com"])
async def test_no_public_registry_gets_a_token_unasked(grants: Grants, service: Service, host: str) -> None:
    registry = settings(hosts=[host]).registries[host]
    assert registry.auth is Auth.PASSTHROUGH
    assert await grants.grant(registry, MANIFEST, None, secure=True) == Grant(None, ANONYMOUS)
    assert service.questions == []


@pytest.mark.parametrize("host", CHALLENGES)
async def test_no_public_registry_leads_to_the_realm_of_another(
    grants: Grants, service: Service, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = parse_registries({host: {"auth": "inject"}})[host]
    others = [line for other, (line, _, _) in CHALLENGES.items() if other != host]
    for line in others:
        assert await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [line], secure=True) is None
    assert service.questions == []
    assert f"registries.{host}.realms" in caplog.text


@pytest.mark.parametrize(
    ("host", "lines", "realms", "asked"),
    [
        (
            "harbor.example",
            ['Bearer realm="https://harbor.example/service/token",service="harbor-registry",scope="repository:a:pull"'],
            [],
            ("https://harbor.example/service/token", "harbor-registry"),
        ),
        (
            "harbor.example:8443",
            ['Bearer realm="https://sso.example/service/token",service="harbor-registry"'],
            ["sso.example"],
            ("https://sso.example/service/token", "harbor-registry"),
        ),
        (
            "registry.gitlab.example",
            ['Bearer realm="https://gitlab.example/jwt/auth",service="container_registry",scope="registry:catalog:*"'],
            ["gitlab.example"],
            ("https://gitlab.example/jwt/auth", "container_registry"),
        ),
        (
            "team.azurecr.example",
            [
                'Bearer realm="https://team.azurecr.example/oauth2/token",service="team.azurecr.example"',
                'Basic realm="team.azurecr.example"',
            ],
            [],
            ("https://team.azurecr.example/oauth2/token", "team.azurecr.example"),
        ),
        (
            "artifactory.example",
            ['Bearer realm="https://artifactory.example:443/api/docker/v2/token",service="artifactory.example:443"'],
            [],
            ("https://artifactory.example:443/api/docker/v2/token", "artifactory.example:443"),
        ),
        (
            "gitea.example",
            [
                'Basic realm="Gitea Container Registry", Bearer service=container_registry, realm="https://gitea.example/t"'
            ],
            [],
            ("https://gitea.example/t", "container_registry"),
        ),
        ("old.example", ["BEARER Realm=\"https://old.example/auth?x=1\" , Service='y'"], [], ("", "'y'")),
    ],
)
async def test_private_registries(
    *, grants: Grants, service: Service, host: str, lines: list[str], realms: list[str], asked: tuple[str, str]
) -> None:
    url, name = asked
    registry = parse_registries({host: {"auth": "inject", "realms": realms}})[host]
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), lines, secure=True)
    assert again == replace(anonymous("token-1"), renewed=True)
    assert service.questions[0].url.startswith(f"{url}?" if url else "https://old.example/auth?x=1&")
    assert [pair for pair in service.queries[0] if pair[0] != "x"] == [("service", name), ("scope", PULL)]


async def test_a_realm_on_another_host_is_asked_only_where_it_is_named(grants: Grants, service: Service) -> None:
    line = 'Bearer realm="https://sso.example/service/token",service="harbor-registry"'
    nothing = Grant(None, ANONYMOUS)
    unnamed = parse_registries({"harbor.example": {"auth": "inject"}})["harbor.example"]
    assert await grants.renew(unnamed, MANIFEST, nothing, [line], secure=True) is None
    assert service.questions == []
    named = parse_registries({"harbor.example": {"auth": "inject", "realms": ["sso.example"]}})["harbor.example"]
    assert await grants.renew(named, MANIFEST, nothing, [line], secure=True)


@pytest.mark.parametrize(
    "line",
    [
        'Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"',
        'BASIC realm="Sonatype Nexus Repository Manager"',
        'Basic realm="basic-realm", charset="UTF-8"',
        "basic",
    ],
)
async def test_registries_that_want_a_password(grants: Grants, service: Service, login: Path, line: str) -> None:
    registry = replace(GHCR, credentials=login)
    again = await grants.renew(registry, MANIFEST, Grant(None, ANONYMOUS), [line], secure=True)
    assert again == Grant(BASIC, "injected alice", injected=True, renewed=True)
    assert service.questions == []


async def test_what_a_client_names_ends_no_line_of_the_question(grants: Grants, service: Service) -> None:
    evil = Route(Kind.MANIFEST, "a\r\nX-Injected: 1&scope=repository:b:push", "latest")
    await grants.grant(DOCKER_HUB, evil, None, secure=True)
    assert not set("\r\n ") & set(service.questions[0].url)
    # Nor does it choose a scope.
    assert service.queries == [[("service", "registry.docker.io")]]
    blank = Route(Kind.MANIFEST, "a repository:private/b:pull", "latest")
    assert scope_of(blank, "GET") == ""
    await grants.grant(DOCKER_HUB, Route(Kind.MANIFEST, "a&scope=repository:b:push", "latest"), None, secure=True)
    assert service.queries[1][1:] == [("scope", "repository:a&scope=repository:b:push:pull")]
