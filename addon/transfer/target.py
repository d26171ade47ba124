"""Which registry a connection or a request is for, and what it asks of it."""

import ipaddress
import socket
from dataclasses import dataclass

from mitmproxy import connection, http
from mitmproxy.proxy import mode_specs

from addon.registry import routes
from addon.registry.routes import Route
from addon.settings import Registry, Settings, address, authority

DIRECT = "pulltap_direct"
"""The key in a flow's metadata that marks a request which was sent to this proxy as to a web server."""
_REDIRECTED = (mode_specs.TransparentMode, mode_specs.LocalMode, mode_specs.WireGuardMode, mode_specs.TunMode)


@dataclass(frozen=True, slots=True)
class Target:
    """A registry request: where it goes, by name, and what it asks for."""

    registry: Registry
    identity: str
    """The name under which its answers are remembered: a host that TLS verified is another than one it did not."""
    route: Route
    scheme: str
    host: str
    port: int


def connecting_to(client: connection.Client, server: connection.Server, sni: str | None, settings: Settings) -> bool:
    """Whether a TLS connection that begins is for a registry; any other is never decrypted."""
    if server.address is None:
        return False
    host, port = server.address[0], server.address[1]
    if _redirected(client):
        host = sni or host
    return settings.registry("https", host, port) is not None


def recognise(flow: http.HTTPFlow, settings: Settings) -> Target | None:
    """The registry request that this flow is; None where it is none."""
    request = flow.request
    host = _host(flow)
    if host is None or (registry := settings.registry(request.scheme, host, request.port)) is None:
        return None
    route = routes.parse(request.path)
    if route is None:
        return None
    name = authority(request.scheme, host, request.port)
    # Not the name: Docker Hub has two of them.
    identity = registry.host
    if request.scheme != "https":
        # Nobody has verified the name, so a redirected client could choose who answers to it.
        identity = f"{request.scheme}://{name}" + (f" at {request.host}" if _redirected(flow.client_conn) else "")
    return Target(registry, identity, route, request.scheme, host, request.port)


def _redirected(client: connection.Client) -> bool:
    return isinstance(client.proxy_mode, _REDIRECTED)


def _host(flow: http.HTTPFlow) -> str | None:
    """The name of the host: redirected traffic has an address for a destination, and names it in SNI and Host.

    None where one of them names another. Such a request may well be answered, by another host at the same address (a
    CDN's, for one): that answer proves nothing about this registry, and a token of ours has no business there.
    """
    request, client = flow.request, flow.client_conn
    host = request.pretty_host if _redirected(client) else request.host
    named = [host, request.pretty_host]
    # In front of a reverse proxy, TLS names the proxy.
    if request.scheme == "https" and client.sni and not isinstance(client.proxy_mode, mode_specs.ReverseMode):
        named.append(client.sni)
    return host if len({name.lower().rstrip(".").strip("[]") for name in named}) == 1 else None


def to_the_proxy(flow: http.HTTPFlow) -> bool:
    """Whether this is a request to the proxy itself: sent to it as to a web server, or to its own address."""
    if flow.metadata.get(DIRECT):
        return True
    if flow.request.scheme != "http" or _redirected(flow.client_conn):
        return False
    own_host, own_port = flow.client_conn.sockname[:2]
    if flow.request.port != own_port:
        return False
    host = flow.request.host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(own_host.partition("%")[0])
    except ValueError:
        return False


def names_the_proxy(host: str) -> bool:
    """Whether a host can only be this proxy, where a request reached it.

    A web site that lets its own name lead here (DNS rebinding) could else have its visitors' browsers read our pages.
    Addresses are nobody's name, and neither is one without a dot, or one that container engines give to their host.
    """
    host = host.strip("[]").lower().rstrip(".")
    try:
        address(host)
    except ValueError:
        pass
    else:
        return True
    known = {
        "host.docker.internal",
        "gateway.docker.internal",
        "host.containers.internal",
        socket.gethostname().lower(),
    }
    return "." not in host or host.endswith(".localhost") or host in known


def ambiguous(request: http.Request) -> bool:
    """Whether the head could be read in two ways: a line that goes on in the next one, or half of a line's end.

    mitmproxy passes both on as they are; RFC 9112, section 5.2, and RFC 9110, section 5.5, allow to refuse them.
    """
    return any(end in value for _, value in request.headers.fields for end in (b"\r", b"\n", b"\0"))
