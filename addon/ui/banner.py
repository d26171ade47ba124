"""What a start says: where things are, and what to do next."""

import ipaddress
import logging
from collections.abc import Iterable

from mitmproxy import ctx
from mitmproxy.log import ALERT
from mitmproxy.utils import human

from addon import __version__
from addon.settings import Access, Settings, address
from addon.ui.pages import ca_path

logger = logging.getLogger(__name__)

_SAMPLE = "https://registry-1.docker.io/v2/library/alpine/tags/list"


def announce(settings: Settings) -> None:
    """Log where the proxy listens, where the store is, which CA a client must trust, and what to type next."""
    servers = ctx.master.addons.get("proxyserver").servers
    addresses = [each for server in servers for each in server.listen_addrs]
    listening = sorted({human.format_address(each) for each in addresses})
    proxy = f"http://{_reachable(*addresses[0][:2]) if addresses else '127.0.0.1:3128'}"
    lines = [
        f"Pulltap {__version__}",
        f"  listens on   {', '.join(listening) or 'nothing'}",
        f"  store        {settings.store} (up to {human.pretty_size(settings.max_size)})",
        f"  trust        {ca_path()}",
        f"  try          curl --proxy {proxy} --cacert {ca_path()} {_SAMPLE}",
        "  next         the recipe for your client in README.md (Docker, Podman, containerd, ...)",
    ]
    if settings.access is Access.TRUST:
        lines.append("  access       registry_access is trust: every client is given every stored blob")
    lines += _shared_credentials(settings, [str(each[0]) for each in addresses])
    logger.log(ALERT, "%s", "\n".join(lines))


def _shared_credentials(settings: Settings, hosts: Iterable[str]) -> list[str]:
    """The warning of one who lends out a personal login, maybe without knowing."""
    files = sorted({str(registry.credentials) for registry in settings.registries.values() if registry.credentials})
    if not files or all(address(host).is_loopback for host in hosts):
        return []
    limited = bool(settings.clients) or bool(ctx.options.proxyauth)
    who = "those who are let in" if limited else "everybody who reaches this proxy"
    lines = [
        f"  WARNING      {who} can pull what you can: requests without credentials get those of {', '.join(files)},",
        "               and this does not listen for this machine alone. Ways out: listen_host: 127.0.0.1, or",
        "               no registry_docker_config and no credentials under registries, so that clients bring their own",
    ]
    if not limited:
        lines[-1] += ","
        lines.append("               or registry_clients or proxyauth, to say who may use them")
    return lines


def _reachable(host: str, port: int) -> str:
    """An address at which this machine finds what listens there; one that means "any" is reached at the loopback's."""
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
