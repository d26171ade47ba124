"""Which registry a connection or a request is for, in each of the ways that clients come."""

import socket

import pytest
from mitmproxy import connection, http
from mitmproxy.proxy import mode_specs

from addon.registry.routes import Kind
from addon.settings import Settings
from addon.transfer.target import DIRECT, ambiguous, connecting_to, names_the_proxy, recognise, to_the_proxy

from ..doubles import HUB, request_flow, settings

KNOWN = settings(hosts=[HUB, "ghcr.io", "registry.example:5000", "[2001:db8::1]:5000", "192.0.2.7:5000"])
PATH = "/v2/library/alpine/manifests/latest"
REDIRECTED = ["transparent", "local", "wireguard"]


def through(mode: str, flow: http.HTTPFlow, address: str | None = None) -> http.HTTPFlow:
    """The flow as it comes through a listener of this mode, `address` being where its connection was to go."""
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    if address is not None:
        flow.request.data.host = address
    return flow


def named(flow: http.HTTPFlow, known: Settings = KNOWN) -> str | None:
    target = recognise(flow, known)
    return f"{target.registry.host} {target.identity} {target.host}:{target.port}" if target else None


@pytest.mark.parametrize("mode", ["regular", "upstream:http://upstream.example", "socks5"])
@pytest.mark.parametrize(
    ("url", "target"),
    [
        (f"https://{HUB}{PATH}", f"{HUB} {HUB} {HUB}:443"),
        (f"https://{HUB.upper()}.{PATH}", f"{HUB} {HUB} {HUB}.:443"),
        (f"http://{HUB}{PATH}", f"{HUB} http://{HUB} {HUB}:80"),
        (f"https://index.docker.io{PATH}", f"{HUB} {HUB} index.docker.io:443"),
        (f"http://index.docker.io{PATH}", f"{HUB} http://index.docker.io index.docker.io:80"),
        (f"https://{HUB}:80{PATH}", None),
        (f"https://{HUB}:5000{PATH}", None),
        (f"http://{HUB}:443{PATH}", None),
        (f"https://registry.example:5000{PATH}", "registry.example:5000 registry.example:5000 registry.example:5000"),
        (f"https://registry.example{PATH}", None),
        (f"https://cdn.example{PATH}", None),
        (f"https://[2001:db8::1]:5000{PATH}", "[2001:db8::1]:5000 [2001:db8::1]:5000 2001:db8::1:5000"),
        (f"https://192.0.2.7:5000{PATH}", "192.0.2.7:5000 192.0.2.7:5000 192.0.2.7:5000"),
        (f"https://{HUB}/", None),
        (f"https://{HUB}/v1/users", None),
    ],
)
def test_a_request_that_names_its_destination(mode: str, url: str, target: str | None) -> None:
    assert named(through(mode, request_flow(url))) == target


def test_what_is_asked() -> None:
    target = recognise(request_flow(f"https://{HUB}{PATH}"), KNOWN)
    assert target
    assert (target.route.kind, target.route.repository, target.scheme) == (Kind.MANIFEST, "library/alpine", "https")


@pytest.mark.parametrize("mode", REDIRECTED)
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::2"])
def test_a_redirected_request_is_named_by_its_client(mode: str, address: str) -> None:
    flow = through(mode, request_flow(f"https://{HUB}{PATH}"), address)
    assert flow.request.host == address
    assert named(flow) == f"{HUB} {HUB} {HUB}:443"


@pytest.mark.parametrize("mode", REDIRECTED)
def test_a_redirected_request_that_names_nobody(mode: str) -> None:
    flow = through(mode, request_flow(f"https://{HUB}{PATH}"), "192.0.2.1")
    flow.client_conn.sni = None
    del flow.request.headers["Host"]
    assert named(flow) is None
    # Without SNI, Host is all there is.
    flow.request.headers["Host"] = HUB
    assert named(flow) == f"{HUB} {HUB} {HUB}:443"


@pytest.mark.parametrize("mode", ["regular", "upstream:http://upstream.example", *REDIRECTED])
@pytest.mark.parametrize(
    ("sni", "host", "recognised"),
    [
        (HUB, HUB, True),
        (HUB, f"{HUB}:443", True),
        (HUB.upper(), f"{HUB}.", True),
        (HUB, "ghcr.io", False),
        ("ghcr.io", HUB, False),
        ("attacker.example", HUB, False),
        (HUB, "attacker.example", False),
        ("attacker.example", "attacker.example", False),
    ],
)
def test_a_request_whose_names_differ_is_for_nobody(mode: str, sni: str, host: str, recognised: bool) -> None:
    flow = request_flow(f"https://{HUB}{PATH}")
    through(mode, flow, "192.0.2.1" if mode in REDIRECTED else None)
    flow.client_conn.sni = sni
    flow.request.headers["Host"] = host
    assert (recognise(flow, KNOWN) is not None) is recognised


def test_a_plain_request_whose_names_differ_is_for_nobody() -> None:
    flow = request_flow(f"http://{HUB}{PATH}")
    flow.request.headers["Host"] = "attacker.example"
    assert named(flow) is None


@pytest.mark.parametrize("mode", REDIRECTED)
def test_what_answers_to_an_unverified_name_is_told_apart_by_its_address(mode: str) -> None:
    identities = {
        named(through(mode, request_flow(f"http://{HUB}{PATH}"), address)) for address in ("192.0.2.1", "192.0.2.66")
    }
    assert identities == {f"{HUB} http://{HUB} at {address} {HUB}:80" for address in ("192.0.2.1", "192.0.2.66")}


def test_a_reverse_proxy_stands_for_its_registry() -> None:
    flow = through(f"reverse:https://{HUB}", request_flow(f"https://{HUB}{PATH}"))
    flow.client_conn.sni = "mirror.example"
    assert named(flow) == f"{HUB} {HUB} {HUB}:443"
    # Where Host is passed on, it is the one that the registry sees.
    flow.request.headers["Host"] = "mirror.example"
    assert named(flow) is None


@pytest.mark.parametrize(
    ("mode", "address", "sni", "decrypted"),
    [
        ("regular", (HUB, 443), HUB, True),
        ("regular", (HUB, 443), None, True),
        ("regular", (HUB, 8443), HUB, False),
        ("regular", ("cdn.example", 443), HUB, False),
        ("regular", None, HUB, False),
        ("transparent", ("192.0.2.1", 443), HUB, True),
        ("transparent", ("192.0.2.1", 443), "cdn.example", False),
        ("transparent", ("192.0.2.1", 443), None, False),
        ("transparent", ("192.0.2.7", 5000), None, True),
        ("transparent", ("192.0.2.1", 5000), "registry.example", True),
        ("transparent", ("2001:db8::1", 5000), None, True),
        ("local", ("192.0.2.1", 443), HUB, True),
        (f"reverse:https://{HUB}", (HUB, 443), "mirror.example", True),
    ],
)
def test_which_tls_is_decrypted(mode: str, address: tuple[str, int] | None, sni: str | None, decrypted: bool) -> None:
    client = connection.Client(
        peername=("192.0.2.9", 1), sockname=("192.0.2.2", 2), proxy_mode=mode_specs.ProxyMode.parse(mode)
    )
    assert connecting_to(client, connection.Server(address=address), sni, KNOWN) is decrypted


@pytest.mark.parametrize(
    ("sockname", "url", "own"),
    [
        (("127.0.0.1", 3128), "http://127.0.0.1:3128/", True),
        (("127.0.0.1", 3128), "http://localhost:3128/", True),
        (("127.0.0.1", 3128), "http://LocalHost:3128/", True),
        (("127.0.0.1", 3128), "http://127.0.0.1/", False),
        (("127.0.0.1", 3128), "http://127.0.0.1:8080/", False),
        (("127.0.0.1", 3128), "http://127.0.0.2:3128/", False),
        (("127.0.0.1", 3128), "https://127.0.0.1:3128/", False),
        (("127.0.0.1", 3128), "http://proxy.example:3128/", False),
        (("127.0.0.1", 3128), "http://127.0.0.1.example:3128/", False),
        (("::1", 3128, 0, 0), "http://[::1]:3128/", True),
        (("::1", 3128, 0, 0), "http://[0:0:0:0:0:0:0:1]:3128/", True),
        (("::1", 3128, 0, 0), "http://localhost:3128/", True),
        (("fe80::1%eth0", 3128, 0, 2), "http://[fe80::1]:3128/", True),
        (("192.0.2.2", 3128), "http://192.0.2.2:3128/", True),
        (("192.0.2.2", 3128), "http://192.0.2.3:3128/", False),
        (("pulltap", 0), "http://127.0.0.1:3128/", False),
        (("127.0.0.1", 80), "http://127.0.0.1/", True),
    ],
)
def test_requests_to_the_proxy_itself(sockname: tuple[str, int], url: str, own: bool) -> None:
    flow = request_flow(url)
    flow.client_conn.sockname = sockname
    assert to_the_proxy(flow) is own


@pytest.mark.parametrize("mode", REDIRECTED)
def test_redirected_requests_are_never_to_the_proxy_itself(mode: str) -> None:
    flow = request_flow("http://127.0.0.1:3128/")
    flow.client_conn.sockname = ("127.0.0.1", 3128)
    assert not to_the_proxy(through(mode, flow))


def test_a_request_sent_as_to_a_web_server_is_to_the_proxy_whatever_it_names() -> None:
    flow = request_flow("http://attacker.example:3128/")
    flow.metadata[DIRECT] = True
    assert to_the_proxy(flow)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "192.0.2.7",
        "::1",
        "[2001:db8::1]",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "pulltap",
        "host.docker.internal",
    ],
)
def test_names_that_can_only_be_the_proxy(host: str) -> None:
    assert names_the_proxy(host)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "attacker.example.",
        HUB,
        "1.2.3",
        "docker.internal",
    ],
)
def test_names_that_somebody_could_lead_here(host: str) -> None:
    assert not names_the_proxy(host)


def test_this_machines_name_is_the_proxys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Build.Example.NET")
    assert names_the_proxy("build.example.net")
    assert not names_the_proxy("example.net")


@pytest.mark.parametrize("value", [b"a\r\n b", b"a\rb", b"a\nb", b"a\0b", b"\r"])
def test_a_head_that_could_be_read_in_two_ways(value: bytes) -> None:
    request = request_flow(f"https://{HUB}/").request
    assert not ambiguous(request)
    request.headers = http.Headers([(b"Host", b"x"), (b"X", value)])
    assert ambiguous(request)
