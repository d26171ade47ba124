"""Where a redirect may lead."""

import asyncio
import socket

import pytest

from addon.transfer.addresses import Reach, led_by, resolve

PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12:3456::1"),
    *("0.0.0.0", "::", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:10.0.0.1"),  # noqa: S104
]
LINK_LOCAL = ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert all(reach.covers(address) for reach in Reach)
    assert led_by(address) is Reach.PUBLIC


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert [reach for reach in Reach if reach.covers(address)] == [Reach.ANYWHERE, Reach.PRIVATE]
    assert led_by(address) is Reach.PRIVATE


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_link_local_addresses(address: str) -> None:
    assert [reach for reach in Reach if reach.covers(address)] == [Reach.ANYWHERE]
    assert led_by(address) is Reach.ANYWHERE


def test_one_whose_address_is_not_known_leads_to_public_ones() -> None:
    assert led_by(None) is Reach.PUBLIC


@pytest.mark.parametrize("notation", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1"])
async def test_an_address_in_any_notation_is_that_address(notation: str) -> None:
    assert await resolve(notation, 443) == ["127.0.0.1"]


async def test_every_address_behind_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("cdn.example", 8443)
        return [
            (socket.AF_INET6, 1, 6, "", ("2606:2800:220:1::1", port, 0, 0)),
            (socket.AF_INET, 1, 6, "", ("10.0.0.1", port)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    assert await resolve("cdn.example", 8443) == ["2606:2800:220:1::1", "10.0.0.1"]


async def test_a_name_behind_which_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nothing)
    with pytest.raises(OSError, match="not known"):
        await resolve("cdn.example", 443)
