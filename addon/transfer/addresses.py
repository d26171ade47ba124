"""Where a redirect may lead, by the addresses behind its name.

A registry chooses where its blobs are fetched from, and Pulltap may stand where the registry cannot look: beside a
cloud's metadata service, behind a firewall. So a public registry may lead to public addresses only. One that is at a
private address itself (a Harbor of one's own, with its storage beside it) may lead to private ones too, but to a
link-local one only if it has such an address itself.
"""

import asyncio
import enum
import ipaddress
import socket

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class Reach(enum.Enum):
    """How far a connection may go."""

    ANYWHERE = enum.auto()
    """To whatever a person configured, or a client asked for."""
    PRIVATE = enum.auto()
    """To all addresses but link-local ones."""
    PUBLIC = enum.auto()
    """To public addresses."""

    def covers(self, address: str) -> bool:
        """Whether a connection may go to this IP address."""
        match self:
            case Reach.ANYWHERE:
                return True
            case Reach.PRIVATE:
                return not _unwrapped(address).is_link_local
            case Reach.PUBLIC:
                ip = _unwrapped(address)
                return ip.is_global and not ip.is_multicast


def led_by(address: str | None) -> Reach:
    """How far one at this IP address may lead; None is one whose address is not known."""
    if address is None or Reach.PUBLIC.covers(address):
        return Reach.PUBLIC
    return Reach.PRIVATE if Reach.PRIVATE.covers(address) else Reach.ANYWHERE


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses behind a name, or behind an address in any of its notations.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _unwrapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it is one of those; else the address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour or ip
    # Not ::1, the loopback address, nor ::, which are of the same form.
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
