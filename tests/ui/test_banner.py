"""What a start says."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy.addons import proxyauth
from mitmproxy.test import taddons

from addon import __version__
from addon.settings import parse_registries
from addon.ui.banner import announce

from ..doubles import mitmproxy_with, settings


@pytest.fixture
def mitmproxy(tmp_path: Path) -> Iterator[taddons.context]:
    with mitmproxy_with(proxyauth.ProxyAuth(), confdir=str(tmp_path)) as running:
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


@pytest.fixture
def login(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.touch()
    return str(path)


def warning(said: list[str]) -> str:
    """The warning as one line; empty where there is none."""
    start = next((at for at, line in enumerate(said) if line.startswith("  WARNING ")), len(said))
    return " ".join(line.strip() for line in said[start:])


OPEN = [("0.0.0.0", 3128)]  # noqa: S104 - what is listened on is the subject


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fe80::1%eth0", "2001:db8::1"])  # noqa: S104 - as above
@pytest.mark.parametrize("entry", [False, True], ids=["registry_docker_config", "registries.*.credentials"])
def test_it_warns_of_a_login_that_others_may_use(
    *, mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture, login: str, host: str, entry: bool
) -> None:
    given: dict[str, object] = {"docker_config": login}
    if entry:
        given = {"registries": parse_registries({"ghcr.io": {"credentials": login}})}
    said = warning(lines(mitmproxy, caplog, [("127.0.0.1", 3128)], [(host, 3129)], **given))
    for words in (
        login,
        "everybody who reaches this proxy can pull what you can",
        "listen_host: 127.0.0.1",
        "registry_clients",
        "proxyauth",
    ):
        assert words in said


@pytest.mark.parametrize("how", ["registry_clients", "proxyauth"])
def test_it_warns_less_where_it_was_said_who_may(
    mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture, login: str, how: str
) -> None:
    if how == "proxyauth":
        mitmproxy.options.update(proxyauth="a:b")
    clients = ["192.0.2.0/24"] if how == "registry_clients" else []
    said = warning(lines(mitmproxy, caplog, OPEN, docker_config=login, clients=clients))
    assert "those who are let in can pull what you can" in said
    assert "proxyauth" not in said


@pytest.mark.parametrize("listening", [[("127.0.0.1", 3128)], [("::1", 3128, 0, 0), ("127.8.0.1", 1)], []])
def test_a_login_that_nobody_else_can_use_is_no_matter(
    mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture, login: str, listening: list[tuple[str, int]]
) -> None:
    assert not warning(lines(mitmproxy, caplog, listening, docker_config=login))


def test_without_a_login_anybody_may_listen(mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture) -> None:
    assert not warning(lines(mitmproxy, caplog, OPEN))
