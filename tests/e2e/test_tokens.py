"""Tokens for requests that bring none, and whose credentials they are made of."""

import base64
import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..standin import Hub
from ..standin.faults import Fault
from .clients.raw import Raw
from .conftest import Clients, StartProxy
from .programs import CommandFailed
from .proxies import Pulltap

MANIFEST = "https://registry-1.docker.io/v2/library/small/manifests/latest"
PRIVATE = "private/app"
HUB_ADDRESS = "https://index.docker.io/v1/"


def write_config(folder: Path, content: Mapping[str, object]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def auths(user: str, password: str) -> dict[str, object]:
    return {"auths": {HUB_ADDRESS: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}


@pytest.fixture
def private(hub: Hub) -> str:
    """The manifest of an image that only `robot` may pull."""
    hub.push(PRIVATE, sizes=(1000,))
    hub.add_account("robot", "s3cret", PRIVATE)
    hub.make_private(PRIVATE)
    return f"https://registry-1.docker.io/v2/{PRIVATE}/manifests/latest"


def test_a_token_is_cached_by_scope_until_it_expires(hub: Hub, raw: Raw) -> None:
    hub.small, hub.single  # noqa: B018 - pushes both
    for _ in range(3):
        assert raw.request("GET", MANIFEST).status == 200
    assert len(hub.token_requests()) == 1
    raw.request("GET", MANIFEST.replace("small", "single"))
    scopes = [record.query for record in hub.token_requests()]
    assert len(scopes) == 2
    assert "small%3Apull" in scopes[0]
    assert "single%3Apull" in scopes[1]
    assert all("Authorization" not in dict(record.headers) for record in hub.token_requests())


def test_a_hundred_requests_at_once_make_one_token_request(hub: Hub, raw: Raw) -> None:
    hub.small  # noqa: B018
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: raw.request("GET", MANIFEST).status, range(100)))
    assert replies == [200] * 100
    assert len(hub.token_requests()) == 1


def test_a_token_refused_before_its_time_is_replaced_once(hub: Hub, raw: Raw) -> None:
    image = hub.small
    assert raw.request("GET", MANIFEST).status == 200
    hub.revoke_tokens()
    hub.clear()
    # For what passes, and for what is filled.
    assert raw.request("GET", MANIFEST).status == 200
    hub.revoke_tokens()
    blob = f"https://registry-1.docker.io/v2/library/small/blobs/{image.layers[0].digest}"
    assert raw.request("GET", blob).header("Cache-Status") == "pulltap; fwd=miss; stored"
    hub.revoke_tokens()
    assert raw.request("HEAD", blob.replace(image.layers[0].digest, image.layers[1].digest)).status == 307
    assert len(hub.token_requests()) == 3


def test_a_second_refusal_stands(hub: Hub, raw: Raw, private: str) -> None:
    refused = raw.request("GET", private)
    assert refused.status == 401
    assert (refused.header("WWW-Authenticate") or "").startswith('Bearer realm="https://auth.docker.io/token"')
    assert json.loads(refused.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert len(hub.token_requests()) == 2


def test_the_clients_own_authorization_wins(hub: Hub, raw: Raw) -> None:
    hub.small  # noqa: B018
    own = f"Bearer {hub.token('library/small')}"
    assert raw.request("GET", MANIFEST, [("authorization", own)]).status == 200
    assert hub.find(path_contains="/manifests/")[0].header("Authorization") == own
    assert raw.request("GET", MANIFEST, [("authorization", "Bearer wrong")]).status == 401
    assert not hub.token_requests()


def test_credentials_of_a_docker_config(
    hub: Hub, start_proxy: StartProxy, clients: Clients, tmp_path: Path, private: str
) -> None:
    config = write_config(tmp_path, auths("robot", "s3cret"))
    raw = clients.raw(start_proxy({"registry_docker_config": str(config)}))
    assert raw.request("GET", private).status == 200
    (asked,) = hub.token_requests()
    assert (asked.header("Authorization") or "").startswith("Basic ")
    assert "account=robot" in asked.query
    # Pulltap holds credentials for it, so clients need none: the ping says so.
    hub.clear()
    ping = raw.request("GET", "https://registry-1.docker.io/v2/")
    assert (ping.status, ping.header("Docker-Distribution-Api-Version")) == (200, "registry/2.0")
    assert not hub.requests


def test_the_ping_passes_where_pulltap_holds_no_credential(hub: Hub, raw: Raw) -> None:
    ping = raw.request("GET", "https://registry-1.docker.io/v2/")
    assert ping.status == 401
    assert ping.header("WWW-Authenticate")
    assert not hub.token_requests()


@pytest.mark.parametrize("named", ["credHelpers", "credsStore"])
def test_credentials_of_a_helper(
    *,
    hub: Hub,
    start_proxy: StartProxy,
    clients: Clients,
    tmp_path: Path,
    private: str,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    helper = tmp_path / "bin" / "docker-credential-made-up"
    helper.parent.mkdir()
    helper.write_text(
        '#!/bin/sh\nread -r server\n[ "$1 $server" = "get https://index.docker.io/v1/" ] || exit 1\n'
        f'echo "$server" >>{tmp_path}/asked\n'
        'echo \'{"ServerURL": "x", "Username": "robot", "Secret": "s3cret"}\'\n'
    )
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{helper.parent}{os.pathsep}{os.environ['PATH']}")
    content = {"credHelpers": {"index.docker.io": "made-up"}} if named == "credHelpers" else {"credsStore": "made-up"}
    proxy = start_proxy({"registry_docker_config": str(write_config(tmp_path, content))})
    raw = clients.raw(proxy)
    assert [raw.request("GET", private).status for _ in range(3)] == [200] * 3
    assert (tmp_path / "asked").read_text().splitlines() == [HUB_ADDRESS]
    assert "s3cret" not in proxy.log()


def test_an_identity_token_is_exchanged_by_post(
    *, hub: Hub, start_proxy: StartProxy, clients: Clients, direct: Raw, tmp_path: Path, private: str
) -> None:
    form = b"grant_type=password&username=robot&password=s3cret&service=registry.docker.io&access_type=offline"
    kind = ("Content-Type", "application/x-www-form-urlencoded")
    token = json.loads(direct.request("POST", "https://auth.docker.io/token", [kind], form).body)["refresh_token"]
    hub.clear()
    config = write_config(tmp_path, {"auths": {HUB_ADDRESS: {"identitytoken": token}}})
    proxy = start_proxy({"registry_docker_config": str(config)})
    assert clients.raw(proxy).request("GET", private).status == 200
    assert [record.method for record in hub.token_requests()] == ["POST"]


def test_a_wrong_password_is_a_warning_and_the_registrys_own_401(
    hub: Hub, start_proxy: StartProxy, clients: Clients, tmp_path: Path, private: str
) -> None:
    config = write_config(tmp_path, auths("robot", "wrong"))
    proxy = start_proxy({"registry_docker_config": str(config)})
    raw = clients.raw(proxy)
    assert raw.request("GET", private).status == 401
    assert "auth.docker.io refused a token" in proxy.log()
    # That client's next pings reach the registry, so that it can log in by itself.
    assert raw.request("GET", "https://registry-1.docker.io/v2/").status == 401


@pytest.mark.parametrize(("said", "heard"), [(429, 429), (500, 503), (503, 503)])
def test_a_failing_token_service_is_not_the_clients_fault(hub: Hub, raw: Raw, said: int, heard: int) -> None:
    image = hub.small
    blob = f"https://registry-1.docker.io/v2/library/small/blobs/{image.layers[0].digest}"
    for url in (MANIFEST, blob):
        hub.faults.add(Fault(host=hub.names.auth, status=said, headers=(("Retry-After", "7"),)))
        reply = raw.request("GET", url)
        assert (reply.status, reply.header("Retry-After")) == (heard, "7")
        assert b"auth.docker.io" in reply.body
        # A failure is not kept: the next request asks again.
        assert raw.request("GET", url).status == 200
        hub.tokens.reset()
        hub.revoke_tokens()


def test_an_unreachable_token_service(hub: Hub, proxy: Pulltap, raw: Raw) -> None:
    hub.small  # noqa: B018
    proxy.map_name("auth.docker.io:443", "error: no such host")
    reply = raw.request("GET", MANIFEST)
    assert reply.status == 503
    assert reply.header("Retry-After")
    assert b"cannot reach the token service auth.docker.io" in reply.body


def test_a_credential_never_goes_to_a_realm_that_is_not_its_registrys(
    hub: Hub, other_hub: Hub, start_proxy: StartProxy, clients: Clients, tmp_path: Path
) -> None:
    other_hub.push("team/app", sizes=(1000,))
    other_hub.add_account("robot", "s3cret", "team/app")
    other_hub.make_private("team/app")
    host = other_hub.names.registry
    config = write_config(tmp_path, {"auths": {host: {"username": "robot", "password": "s3cret"}}})
    url = f"https://{host}/v2/team/app/manifests/latest"
    entry = {"auth": "inject", "credentials": str(config)}
    strict = start_proxy(registries={host: entry})
    strict.map_hub(other_hub)
    assert clients.raw(strict).request("GET", url).status == 401
    assert not other_hub.token_requests()
    assert f"registries.{host}.realms" in strict.log()
    allowing = start_proxy(registries={host: {**entry, "realms": [other_hub.names.auth]}})
    allowing.map_hub(other_hub)
    raw = clients.raw(allowing)
    assert raw.request("GET", url).status == 200
    # The challenge was learned: the next scope needs no 401 first.
    other_hub.clear()
    assert raw.request("GET", url.replace("manifests/latest", "tags/list")).status == 200
    assert other_hub.count(status=401) == 0


def test_docker_login_works_through_the_proxy(hub: Hub, clients: Clients, proxy: Pulltap, private: str) -> None:
    docker = clients.docker(proxy)
    with pytest.raises(CommandFailed):
        docker.pull(f"{PRIVATE}:latest")
    with pytest.raises(CommandFailed):
        docker.login("robot", "wrong")
    docker.login("robot", "s3cret")
    assert docker.pull(f"{PRIVATE}:latest")


def test_a_lab_shares_one_account(
    hub: Hub, clients: Clients, start_proxy: StartProxy, tmp_path: Path, private: str
) -> None:
    config = write_config(tmp_path, auths("robot", "s3cret"))
    proxy = start_proxy({"registry_docker_config": str(config)})
    docker = clients.docker(proxy)
    assert docker.pull(f"{PRIVATE}:latest")
