"""A mitmproxy addon (`-s remap.py`): maps names to loopback ports, and lets nothing leave the machine.

The environment's STANDIN_MAP is JSON, or the path of a file with it, which is read anew for each connection:

    {"registry-1.docker.io:443": "127.0.0.1:4711", "auth.docker.io:443": "error: Name not known"}

It works at the look-up of the name, so that everything else, SNI, the verification of certificates, logs, and
mitmproxy's reuse of connections (which goes by the address asked for), is as it would be.
"""

import asyncio
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy.server_hooks import ServerConnectionHookData


def load(loader: Loader) -> None:
    """Take the place of the event loop's name look-up."""
    loop: asyncio.AbstractEventLoop = ctx.master.event_loop
    look_up = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **hints: Any) -> Any:
        if host is None or _is_loopback(host):
            return await look_up(host, port, **hints)
        mapped_host, mapped_port = mapped(host, port)
        return await look_up(mapped_host, mapped_port, **hints)

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]


def server_connect(data: ServerConnectionHookData) -> None:
    """An address in place of a name is never looked up, so map or refuse it here."""
    if data.server.address is None:
        return
    host, port = data.server.address[:2]
    if _is_address(host) and not _is_loopback(host):
        try:
            data.server.address = mapped(host, port)
        except OSError as error:
            data.server.error = str(error)


def mapped(host: str, port: int) -> tuple[str, int]:
    """Where the map leads. Raises socket.gaierror for what is not in it, or is an error there."""
    source = os.environ.get("STANDIN_MAP", "{}")
    text = source if source.lstrip().startswith("{") else Path(source).read_text()
    target = json.loads(text).get(f"{host}:{port}", f"error: {host}:{port} is outside of the test")
    if target.startswith("error:"):
        raise socket.gaierror(socket.EAI_NONAME, target.removeprefix("error:").strip())
    name, _, number = target.rpartition(":")
    return name, int(number)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
