"""Who may use the proxy: by address, and by password."""

import base64
import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import http as mitmhttp
from mitmproxy import io

from ..standin import Hub
from .conftest import Clients, StartProxy
from .programs import CommandFailed, missing
from .proxies import Pulltap
from .sockets import Peer, Server

PASSWORD = "open-sesame"
LOGIN = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def outside() -> str:
    """An address of this machine that is not a loopback one; who connects to it, comes from it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent.
            probe.connect(("192.0.2.77", 9))
            host = str(probe.getsockname()[0])
        except OSError:
            host = "127.0.0.1"
    if host.startswith("127."):
        missing("this machine has no address but the loopback's")
    return host


def dial(host: str, port: int) -> Peer:
    return Peer(socket.create_connection((host, port), 30))


def answer(host: str, port: int, request: str) -> bytes:
    """All that comes back until the connection is closed."""
    with dial(host, port) as client:
        client.send(request.encode())
        return client.rest()


@contextlib.contextmanager
def reached() -> Iterator[Server]:
    """A server that nobody is to reach."""
    with Server(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        yield server
        assert not server.connections


LISTEN = {"listen_host": "0.0.0.0", "block_global": False}  # noqa: S104 - that is what it is about


def test_a_stranger_gets_nothing(hub: Hub, start_proxy: StartProxy, outside: str) -> None:
    proxy = start_proxy({**LISTEN, "registry_clients": ["198.51.100.0/24"]})
    with reached() as server:
        for request in (
            f"CONNECT {server.address} HTTP/1.1\r\nHost: {server.address}\r\n\r\n",
            f"CONNECT {hub.names.registry}:443 HTTP/1.1\r\nHost: {hub.names.registry}:443\r\n\r\n",
            f"GET http://{server.address}/ HTTP/1.1\r\nHost: {server.address}\r\n\r\n",
            f"GET http://{hub.names.registry}/v2/ HTTP/1.1\r\nHost: {hub.names.registry}\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: {outside}:{proxy.port}\r\n\r\n",
            f"GET /ca.pem HTTP/1.1\r\nHost: localhost:{proxy.port}\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ):
            said = answer(outside, proxy.port, request)
            assert said.startswith(b"HTTP/1.1 403 Forbidden\r\n"), request
            assert said.count(b"HTTP/1.1") == 1
        # By TLS to the proxy, too.
        context = ssl.create_default_context(cafile=str(proxy.ca))
        with socket.create_connection((outside, proxy.port), 30) as connection, pytest.raises(OSError):  # noqa: PT011, SIM117
            with context.wrap_socket(connection, server_hostname="localhost") as wrapped:
                wrapped.recv(1)
    assert not hub.requests
    assert proxy.log().count(f"{outside} is refused: it is not in registry_clients") == 1
    # This machine always is let in.
    assert proxy.get("/healthz").status == 200


def test_a_guest_is_served(hub: Hub, start_proxy: StartProxy, outside: str) -> None:
    proxy = start_proxy({**LISTEN, "registry_clients": [outside]})
    assert b"200 OK" in answer(
        outside, proxy.port, f"GET / HTTP/1.1\r\nHost: {outside}:{proxy.port}\r\nConnection: close\r\n\r\n"
    )
    with dial(outside, proxy.port) as client:
        client.send(f"CONNECT {hub.names.registry}:443 HTTP/1.1\r\n\r\n".encode())
        assert client.head().startswith(b"HTTP/1.1 200 ")


def test_a_stranger_is_cut_where_an_answer_could_not_be_read(start_proxy: StartProxy, outside: str) -> None:
    proxy = start_proxy(
        {**LISTEN, "registry_clients": ["198.51.100.1"]},
        args=["--mode", "regular", "--mode", "socks5@0"],
    )
    port = int(socks_port(proxy))
    with dial(outside, port) as client:
        client.send(b"\x05\x01\x00")
        with contextlib.suppress(ConnectionResetError):
            assert client.rest() == b""


def socks_port(proxy: Pulltap) -> str:
    (line,) = [line for line in proxy.log().splitlines() if line.startswith("  listens on ")]
    return next(port for each in line.split()[2:] if (port := each.rstrip(",").rpartition(":")[2]) != str(proxy.port))


# --- a password ---


class Locked(Pulltap):
    """Its own pages ask for the password as well."""

    def _ready(self) -> bool:
        try:
            return self.get("/healthz").status == 407
        except (OSError, http.client.HTTPException):
            return False


@pytest.fixture
def locked(hub: Hub, tmp_path: Path) -> Iterator[Locked]:
    proxy = Locked(
        tmp_path / "locked",
        hub,
        {"proxyauth": f"alice:{PASSWORD}"},
        None,
        ["-w", str(tmp_path / "flows"), "--set", f"hardump={tmp_path}/flows.har"],
    )
    yield proxy
    proxy.stop()
    assert not proxy.trouble(), proxy.trouble()


def test_without_the_password_there_is_no_tunnel(hub: Hub, locked: Locked, clients: Clients) -> None:
    with reached() as server:
        for host in (server.address, f"{hub.names.registry}:443"):
            for login in ("", f"Proxy-Authorization: Basic {base64.b64encode(b'alice:wrong').decode()}\r\n"):
                with dial("127.0.0.1", locked.port) as client:
                    client.send(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{login}\r\n".encode())
                    head = client.head()
                assert head.startswith(b"HTTP/1.1 407 ")
                assert b'\r\nProxy-Authenticate: Basic realm="' in head
    with pytest.raises(CommandFailed):
        clients.skopeo(locked).pull(hub.small.reference)
    assert not hub.requests


def test_with_the_password_a_pull_works_and_it_goes_no_further(
    hub: Hub, locked: Locked, clients: Clients, tmp_path: Path
) -> None:
    locked.url = locked.url.replace("//", f"//alice:{PASSWORD}@")
    image = hub.small
    clients.skopeo(locked).pull(image.reference)
    through = clients.curl(locked)
    assert through.get(hub.url(image.blob_path(image.config))).status == 200
    heads = []

    def serve(peer: Peer) -> None:
        heads.append(peer.head())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Server(serve) as server:
        assert through.get(f"http://{server.address}/plain").body == b"ok"
    assert hub.requests
    said = [f"{record}{record.headers}" for record in hub.requests] + [head.decode() for head in heads]
    assert not [each for each in said if "proxy-authorization" in each.lower() or LOGIN in each]
    locked.stop()
    for file in ("flows", "flows.har"):
        content = (tmp_path / file).read_bytes()
        assert PASSWORD.encode() not in content
        assert LOGIN.encode() not in content
    with (tmp_path / "flows").open("rb") as opened:
        flows = [each for each in io.FlowReader(opened).stream() if isinstance(each, mitmhttp.HTTPFlow)]
    assert {"alice"} == {each.metadata["proxyauth"][0] for each in flows if "proxyauth" in each.metadata}
    assert PASSWORD not in locked.log()
