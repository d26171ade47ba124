"""What a start says."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy.test import taddons

from addon import __version__
from addon.ui.banner import announce

from ..doubles import mitmproxy_with, settings


@pytest.fixture
def mitmproxy(tmp_path: Path) -> Iterator[taddons.context]:
    with mitmproxy_with(confdir=str(tmp_path)) as running:
        yield running


def lines(
    mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture, *listening: object, **changes: object
) -> list[str]:
    """The banner of a proxy whose servers listen on these addresses."""
    servers = [SimpleNamespace(listen_addrs=addresses) for addresses in listening]
    mitmproxy.master.addons.get("proxyserver").servers = servers
    caplog.set_level(logging.INFO, "addon.ui.banner")
    announce(settings(**{"store": "/var/lib/pulltap", **changes}))
    (record,) = [record for record in caplog.records if record.name == "addon.ui.banner"]
    assert record.levelname == "ALERT"
    return record.getMessage().splitlines()


def test_it_says_where_things_are(mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    ca = tmp_path / "mitmproxy-ca-cert.pem"
    said = lines(mitmproxy, caplog, [("127.0.0.1", 3128)], max_size=50 << 30)
    assert said[0] == f"Pulltap {__version__}"
    assert said[1:4] == [
        "  listens on   127.0.0.1:3128",
        "  store        /var/lib/pulltap (up to 50.0g)",
        f"  trust        {ca}",
    ]
    assert said[4].startswith(f"  try          curl --proxy http://127.0.0.1:3128 --cacert {ca} https://")
    assert not any("access" in line for line in said)


@pytest.mark.parametrize(
    ("listening", "said", "proxy"),
    [
        ([[("192.0.2.1", 8080)]], "192.0.2.1:8080", "192.0.2.1:8080"),
        ([[("0.0.0.0", 3128)]], "*:3128", "127.0.0.1:3128"),  # noqa: S104 - what is listened on is the subject
        ([[("::", 3128, 0, 0), ("0.0.0.0", 3128)]], "*:3128", "127.0.0.1:3128"),  # noqa: S104 - as above
        ([[("::1", 3128, 0, 0)]], "[::1]:3128", "[::1]:3128"),
        ([[("127.0.0.1", 3128)], [("127.0.0.1", 3129)]], "127.0.0.1:3128, 127.0.0.1:3129", "127.0.0.1:3128"),
        ([[]], "nothing", "127.0.0.1:3128"),
        ([], "nothing", "127.0.0.1:3128"),
    ],
)
def test_every_address_and_how_to_reach_one(
    mitmproxy: taddons.context,
    caplog: pytest.LogCaptureFixture,
    listening: list[list[tuple[str, int]]],
    said: str,
    proxy: str,
) -> None:
    found = lines(mitmproxy, caplog, *listening)
    assert found[1] == f"  listens on   {said}"
    assert f"--proxy http://{proxy} " in found[4]


def test_it_warns_of_trust(mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture) -> None:
    assert "registry_access is trust" in lines(mitmproxy, caplog, [("127.0.0.1", 3128)], access="trust")[-1]
