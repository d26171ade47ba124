"""What mitmproxy keeps of flows has no secrets in it, whatever they went through; what is sent has all of them."""

import base64
import json
import os
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mitmproxy import http, io

from ..standin import ACCEPT, Fault, Hub
from .clients.raw import Raw
from .conftest import StartProxy
from .programs import eventually
from .proxies import Pulltap
from .sockets import Server, dial

PASSWORD, COOKIE = "s3cret-of-the-robot", "c00kie-of-the-client"
REPOSITORY = "private/redacted"


@dataclass
class Kept:
    """A proxy that keeps all there is to keep: ``-w``, ``hardump``, and what it prints."""

    hub: Hub
    proxy: Pulltap
    raw: Raw
    folder: Path
    secrets: set[str] = field(default_factory=set)

    def url(self, path: str) -> str:
        return self.hub.url(f"/v2/{REPOSITORY}/{path}")

    def blob(self, size: int = 100_000) -> tuple[str, bytes]:
        """A new blob's address and content."""
        content = os.urandom(size)
        return self.url(f"blobs/{self.hub.push_blob(REPOSITORY, content).digest}"), content

    def end(self) -> list[http.HTTPFlow]:
        """End the proxy; what it saved. No secret may be in any of it."""
        for record in self.hub.requests:
            self.secrets.update((record.header("Authorization") or " ").split(" ")[1:])
            for name, value in urllib.parse.parse_qsl(record.query):
                if name == "Signature":
                    self.secrets.add(value)
        self.secrets |= {*self.hub.tokens._grants, *self.hub.tokens._refresh, PASSWORD, COOKIE}
        self.secrets.discard("")
        assert len(self.secrets) > 5
        self.proxy.stop()
        with (self.folder / "flows").open("rb") as file:
            flows = list(io.FlowReader(file).stream())
        har = json.loads((self.folder / "flows.har").read_text())
        bodies = [entry["response"]["content"] for entry in har["log"]["entries"]]
        kept = {
            "-w": (self.folder / "flows").read_bytes(),
            "hardump": (self.folder / "flows.har").read_bytes(),
            "bodies in base64": b"".join(
                base64.b64decode(each["text"]) for each in bodies if each.get("encoding") == "base64"
            ),
            "the log": self.proxy.log().encode(),
        }
        found = [
            f"{secret} in {where}"
            for where, content in kept.items()
            for secret in self.secrets
            if secret.encode() in content
        ]
        assert not found, "\n".join(found)
        return [each for each in flows if isinstance(each, http.HTTPFlow)]


@pytest.fixture
def kept(hub: Hub, start_proxy: StartProxy, tmp_path: Path) -> Kept:
    hub.push(REPOSITORY, sizes=(1000,))
    hub.add_account("robot", PASSWORD, REPOSITORY)
    hub.make_private(REPOSITORY)
    config = tmp_path / "config.json"
    auth = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
    options = {
        "registry_docker_config": str(config),
        # A client's question to the token service is looked into, too.
        "registry_hosts": [hub.names.registry, hub.names.auth],
        "store_streamed_bodies": True,
        "flow_detail": 4,
        "termlog_verbosity": "debug",
    }
    saving = ["-w", str(tmp_path / "flows"), "--set", f"hardump={tmp_path}/flows.har"]
    proxy = start_proxy(options, None, saving)
    return Kept(hub, proxy, Raw(proxy.port, proxy.ca), tmp_path, {auth})


def test_flows_that_end_well(kept: Kept) -> None:
    hub, raw = kept.hub, kept.raw
    # Pulltap asks for a token with the password, is redirected, and loses the CDN's connection once.
    url, content = kept.blob(3_000_000)
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=1_000_000))
    reply = raw.request("GET", url, [("Cookie", f"a={COOKIE}")])
    assert (reply.status, reply.body) == (200, content)
    assert [record.header("Range") for record in hub.find(host=hub.names.cdn)] == [None, "bytes=1000000-"]
    # A client with a token of its own; the redirect passes, whole.
    own = hub.bearer(REPOSITORY, "pull,push", "robot")
    other, _ = kept.blob()
    redirect = raw.request("HEAD", other, [own])
    assert redirect.status == 307
    location = redirect.header("Location") or ""
    assert "REDACTED" not in location
    kept.secrets.update(urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)["Signature"])
    assert raw.request("GET", kept.url("manifests/latest"), [own, ACCEPT]).status == 200
    assert raw.request("GET", kept.url("manifests/latest"), [ACCEPT]).status == 200
    # A push, whose addresses are signed.
    begun = raw.request("POST", kept.url("blobs/uploads/"), [own])
    assert begun.status == 202
    place = begun.header("Location") or ""
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(place).query).get("_state", [])
    kept.secrets.update(state)
    # A client's own question to the token service, both ways.
    login = ("Authorization", f"Basic {base64.b64encode(f'robot:{PASSWORD}'.encode()).decode()}")
    asked = f"https://{hub.names.auth}/token?service={hub.names.service}&scope=repository:{REPOSITORY}:pull"
    answer = json.loads(raw.request("GET", asked, [login]).body)
    assert hub.tokens.grant(answer["token"])
    form = {"grant_type": "password", "username": "robot", "password": PASSWORD, "access_type": "offline"}
    body = urllib.parse.urlencode({**form, "service": hub.names.service}).encode()
    kind = ("Content-Type", "application/x-www-form-urlencoded")
    answer = json.loads(raw.request("POST", f"https://{hub.names.auth}/token", [kind], body).body)
    assert answer["refresh_token"] in hub.tokens._refresh

    flows = kept.end()
    saved = [f"{each.request.method} {each.request.pretty_url}" for each in flows]
    assert f"GET {url}" in saved
    assert f"POST https://{hub.names.auth}/token" in saved
    legs = [each for each in flows if each.request.host == hub.names.cdn]
    assert len(legs) == 2
    for leg in legs:
        assert "&Signature=REDACTED&" in leg.request.path
        assert f"/{hub.find(host=hub.names.cdn)[0].path.split('/')[-2]}/data?Expires=1" in leg.request.path
    (redirected,) = [each for each in flows if each.request.method == "HEAD" and each.is_replay is None]
    assert redirected.response
    assert "&Signature=REDACTED&" in redirected.response.headers["Location"]
    assert redirected.request.headers["Authorization"] == "Bearer REDACTED"
    tokens = [each for each in flows if each.request.host == hub.names.auth and each.is_replay]
    assert tokens
    for each in tokens:
        assert each.request.headers["Authorization"] == "Basic REDACTED"
        assert each.response
        assert json.loads(each.response.content or b"")["token"] == "REDACTED"


def test_flows_that_end_in_an_error(kept: Kept) -> None:
    hub, raw = kept.hub, kept.raw
    own = hub.bearer(REPOSITORY, account="robot")
    # The registry hangs up; the CDN refuses; a client goes away; the token service fails.
    manifest = kept.url("manifests/latest")
    hub.faults.add(Fault(host=hub.names.registry, cut_after=-1))
    assert raw.request("GET", manifest, [own, ("Cookie", COOKIE)]).status == 502
    hub.faults.add(Fault(host=hub.names.cdn, status=403, body=b"<Error/>", times=None))
    assert raw.request("GET", kept.blob()[0], [own]).status == 403
    hub.faults.clear()
    held = hub.faults.add(Fault(host=hub.names.registry, hold_headers=True))
    with raw.connect(hub.names.registry) as connection:
        connection._connection.request("GET", urllib.parse.urlsplit(manifest).path, headers=dict([own]))
        assert held.reached.wait(30)
    held.release.set()
    hub.faults.clear()
    hub.faults.add(Fault(host=hub.names.auth, status=500, body=b'{"token": "t0ken-in-an-error"}'))
    kept.secrets.add("t0ken-in-an-error")
    assert raw.request("GET", manifest).status == 503
    eventually(lambda: "client disconnected" in kept.proxy.log() or "closed" in kept.proxy.log(), "the client's end")
    flows = kept.end()
    assert [each for each in flows if each.error]
    assert {each.response.status_code for each in flows if each.response} >= {307, 403, 500, 503}


def test_flows_that_have_not_ended(kept: Kept) -> None:
    hub, raw = kept.hub, kept.raw
    url, _ = kept.blob(3_000_000)
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=1_000_000))
    following = raw.open("GET", url, [("Cookie", COOKIE)])
    assert following.read(10_000)
    assert stalled.reached.wait(30)
    held = hub.faults.add(Fault(host=hub.names.registry, hold_headers=True))
    connection = raw.connect(hub.names.registry)
    with connection:
        path = urllib.parse.urlsplit(kept.url("manifests/latest")).path
        connection._connection.request("GET", path, headers=dict([hub.bearer(REPOSITORY, account="robot")]))
        assert held.reached.wait(30)
        flows = kept.end()
    following.close()
    assert {each.request.host for each in flows} >= {hub.names.registry, hub.names.cdn}


def test_a_plain_request_through_the_proxy(kept: Kept) -> None:
    heads = []
    login = base64.b64encode(b"me:secret-for-a-proxy").decode()

    def serve(peer: object) -> None:
        heads.append(peer.head())  # type: ignore[attr-defined]
        peer.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: b=set-by-a-server\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]

    kept.secrets.update({login, "set-by-a-server", "signed-by-a-server"})
    with Server(serve) as server, dial(kept.proxy.port) as client:
        address = server.address
        client.send(
            f"GET http://{address}/x?sig=signed-by-a-server HTTP/1.1\r\nHost: {address}\r\nCookie: {COOKIE}\r\n"
            f"Proxy-Authorization: Basic {login}\r\nConnection: close\r\n\r\n".encode()
        )
        head, body = client.message()
    assert b"set-by-a-server" in head
    assert body == b"ok"
    assert f"GET /x?sig=signed-by-a-server HTTP/1.1\r\nHost: {address}\r\nCookie: {COOKIE}\r\n".encode() in heads[0]
    # It is meant for this proxy, which nobody told to ask for it.
    assert b"Proxy-Authorization" not in heads[0]
    kept.raw.request("GET", kept.url("manifests/latest"))
    (saved,) = [each for each in kept.end() if each.request.port == server.port]
    assert saved.request.path == "/x?sig=REDACTED"


def test_who_wants_to_see_secrets_can(hub: Hub, start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy({"registry_redact": False}, None, ["-w", str(tmp_path / "flows")])
    url = hub.url(hub.small.manifest_path)
    name, value = hub.bearer(hub.small.repository)
    assert Raw(proxy.port, proxy.ca).request("GET", url, [(name, value), ACCEPT]).status == 200
    proxy.stop()
    with (tmp_path / "flows").open("rb") as file:
        saved = [each for each in io.FlowReader(file).stream() if isinstance(each, http.HTTPFlow)]
    assert value in [each.request.headers.get("Authorization") for each in saved]
