"""The settings: what hosts, options and the mapping of registries mean."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import settings
from addon.settings import (
    DOCKER_HUB,
    REGISTRIES,
    Access,
    Auth,
    ConfigError,
    Ping,
    Registry,
    Settings,
    authority,
    parse_registries,
)


def parse(**changes: Any) -> Settings:
    usual = {
        "hosts": ["ghcr.io"],
        "store": "/srv/store",
        "max_size": 1,
        "min_free": 0,
        "access": "check",
        "docker_config": "",
        "max_fills": 1,
        "fill_connections": 1,
        "access_grace": 3600,
        "clients": [],
        "registries": {},
    }
    return settings.parse(**{**usual, **changes})


# Hosts.


@pytest.mark.parametrize(
    ("scheme", "host", "port", "name"),
    [
        ("https", "ghcr.io", 443, "ghcr.io"),
        ("http", "ghcr.io", 80, "ghcr.io"),
        ("https", "ghcr.io", 80, "ghcr.io:80"),
        ("http", "ghcr.io", 443, "ghcr.io:443"),
        ("https", "registry.example", 5000, "registry.example:5000"),
        ("https", "GHCR.io.", 443, "ghcr.io"),
        ("https", "10.0.0.1", 5000, "10.0.0.1:5000"),
        ("https", "::1", 443, "[::1]"),
        ("https", "[::1]", 5000, "[::1]:5000"),
        ("https", "2001:DB8::1", 5000, "[2001:db8::1]:5000"),
        ("ftp", "ghcr.io", 443, "ghcr.io:443"),
    ],
)
def test_the_name_of_an_address(scheme: str, host: str, port: int, name: str) -> None:
    assert authority(scheme, host, port) == name


@pytest.mark.parametrize(
    ("configured", "scheme", "host", "port"),
    [
        ("ghcr.io", "https", "ghcr.io", 443),
        ("ghcr.io", "http", "ghcr.io", 80),
        ("GHCR.io", "https", "ghcr.io", 443),
        ("ghcr.io", "https", "GHCR.io.", 443),
        ("ghcr.io:443", "https", "ghcr.io", 443),
        ("ghcr.io:80", "http", "ghcr.io", 80),
        ("localhost", "http", "localhost", 80),
        ("localhost:5000", "http", "localhost", 5000),
        ("localhost:5000", "https", "localhost", 5000),
        ("localhost:05000", "https", "localhost", 5000),
        ("10.0.0.1:5000", "https", "10.0.0.1", 5000),
        ("[::1]", "https", "::1", 443),
        ("[::1]:5000", "https", "::1", 5000),
        ("[2001:DB8::1]:5000", "https", "2001:db8::1", 5000),
        ("a-b.c-d.example:65535", "https", "a-b.c-d.example", 65535),
        # What image references call Docker Hub is not what its registry is called.
        ("docker.io", "https", "registry-1.docker.io", 443),
        ("index.docker.io", "https", "registry-1.docker.io", 443),
    ],
)
def test_a_configured_host_is_known_at_its_address(configured: str, scheme: str, host: str, port: int) -> None:
    by_hosts = parse(hosts=[configured]).registry(scheme, host, port)
    assert by_hosts is not None
    by_registries = parse(hosts=[], registries=parse_registries({configured: {}})).registry(scheme, host, port)
    assert by_registries == by_hosts
    assert by_hosts.host == authority("https", host, 443 if port == 80 else port)


def test_docker_hub_has_two_names() -> None:
    known = parse(hosts=["docker.io"])
    assert known.registry("https", "index.docker.io", 443) is known.registry("https", "registry-1.docker.io", 443)
    assert parse(hosts=["ghcr.io"]).registry("https", "index.docker.io", 443) is None


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        ("https", "ghcr.io", 5000),
        ("https", "ghcr.io", 80),
        ("https", "pkg.ghcr.io", 443),
        ("https", "ghcr.io.example", 443),
        ("https", "localhost", 443),
        ("https", "auth.docker.io", 443),
        ("ftp", "ghcr.io", 443),
    ],
)
def test_other_addresses_are_of_no_concern(scheme: str, host: str, port: int) -> None:
    assert parse(hosts=["ghcr.io", "localhost:5000", "docker.io"]).registry(scheme, host, port) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "https://ghcr.io",
        "ghcr.io/",
        "ghcr.io/library",
        "ghcr.io:",
        "ghcr.io:port",
        "ghcr.io:0",
        "ghcr.io:65536",
        "ghcr.io:443443",
        "ghcr.io:-1",
        "ghcr.io:5000:5000",
        ":5000",
        "-ghcr.io",
        "ghcr.io.",
        ".ghcr.io",
        "*.ghcr.io",
        "gh cr.io",
        "ghcr.io\n",
        "user@ghcr.io",
        "ghcr_io",
        "ghcr.ïo",
        "::1",
        "[::1",
        "[]",
        "[ghcr.io]",
        5000,
        None,
        True,
        ["ghcr.io"],
    ],
)
def test_what_is_no_host(host: object) -> None:
    where: list[tuple[str, Any]] = [
        ("registry_hosts", lambda: parse(hosts=[host])),
        ("registries.ghcr.io.realms", lambda: parse_registries({"ghcr.io": {"realms": ["ghcr.io", host]}})),
    ]
    if not isinstance(host, list):
        where.append((f"registries.{host}", lambda: parse_registries({host: {}})))
    for key, work in where:
        with pytest.raises(ConfigError, match="is no host and no host:port") as refused:
            work()
        assert str(refused.value).startswith(f"{key}: ")
        assert ".".join(refused.value.keys) == key


@given(st.text() | st.text("ab1.-:[]/@"), st.sampled_from(["https", "http"]))
def test_any_host_is_known_or_refused(text: str, scheme: str) -> None:
    try:
        (name,) = parse(hosts=[text]).registries
    except ConfigError:
        return
    # What is taken can be met: there is an address that has this name.
    host, _, port = name.rpartition(":") if re.search(r":[0-9]+$", name) else (name, "", "")
    assert authority(scheme, host, int(port or {"https": 443, "http": 80}[scheme])) == name or int(port) in (80, 443)
    assert name.isascii()
    assert name == name.lower()


# Options.


def test_each_known_registry_has_its_ways() -> None:
    found = parse(hosts=settings.DEFAULT_HOSTS)
    assert set(found.registries) == set(settings.DEFAULT_HOSTS)
    assert found.registries["registry-1.docker.io"] == DOCKER_HUB
    assert (DOCKER_HUB.auth, DOCKER_HUB.realms) == (Auth.INJECT, ("auth.docker.io",))
    assert found.registries["ghcr.io"] == Registry("ghcr.io", Auth.PASSTHROUGH, Ping.UPSTREAM, (), None)
    assert found.registries["registry.gitlab.com"] == Registry("registry.gitlab.com", realms=("gitlab.com",))
    assert {name for name, registry in found.registries.items() if registry.auth is Auth.INJECT} == {DOCKER_HUB.host}


def test_a_registry_with_settings_of_its_own_needs_no_second_mention() -> None:
    ghcr = Registry("ghcr.io", auth=Auth.INJECT)
    found = parse(hosts=["quay.io", "ghcr.io"], registries={"ghcr.io": ghcr, "gcr.io": Registry("gcr.io")})
    assert found.registries == {"quay.io": Registry("quay.io"), "ghcr.io": ghcr, "gcr.io": Registry("gcr.io")}


@pytest.mark.parametrize("hosts", [["ghcr.io", "GHCR.IO", "ghcr.io:443"], []])
def test_a_host_may_be_named_twice_or_none_at_all(hosts: list[str]) -> None:
    assert list(parse(hosts=hosts).registries) == ["ghcr.io"][: len(hosts)]


@pytest.mark.parametrize(
    ("changes", "message", "key"),
    [
        ({"max_size": None}, "registry_store_max_size is to be a size such as 50g", "registry_store_max_size"),
        ({"max_size": 0}, "such as 50g", "registry_store_max_size"),
        ({"max_size": -1}, "such as 50g", "registry_store_max_size"),
        ({"min_free": None}, "registry_store_min_free is to be a size such as 1g, or 0", "registry_store_min_free"),
        ({"min_free": -1}, "such as 1g, or 0", "registry_store_min_free"),
        ({"access": "off"}, "registry_access is 'off', but is to be one of check, trust", "registry_access"),
        ({"access": ""}, "one of check, trust", "registry_access"),
        ({"max_fills": 0}, "registry_max_fills is 0, but is to be 1 or more", "registry_max_fills"),
        ({"fill_connections": -1}, "is -1, but is to be 1 or more", "registry_fill_connections"),
        ({"access_grace": -1}, "registry_access_grace is -1, but is to be 0 or more", "registry_access_grace"),
        ({"store": "~nobody-of-that-name/store"}, "a home folder that is not known", "registry_store"),
        ({"docker_config": "/gone.json"}, "there is no /gone.json; docker login makes one", "registry_docker_config"),
        ({"docker_config": "/dev/null/x"}, "/dev/null/x cannot be read: Not a directory", "registry_docker_config"),
        ({"docker_config": "~nobody-of-that-name/x"}, "a home folder that is not known", "registry_docker_config"),
    ],
)
def test_values_that_mean_nothing(changes: dict[str, object], message: str, key: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse(**changes)
    assert refused.value.keys == (key,)
    assert key in str(refused.value)


def test_values_that_mean_something() -> None:
    found = parse(max_size=5, min_free=7, access="trust", max_fills=3, fill_connections=2, access_grace=0)
    assert (found.max_size, found.min_free, found.access) == (5, 7, Access.TRUST)
    assert (found.max_fills, found.fill_connections) == (3, 2)
    assert found.access_grace == 0


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/alice")
    assert parse(store="/srv/store").store == Path("/srv/store")
    assert parse(store="~/store").store == Path("/home/alice/store")
    assert parse(store="").store == Path("/var/cache/alice/pulltap")
    # By the specification, a relative path there counts for nothing.
    for value in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert parse(store="").store == Path("/home/alice/.cache/pulltap")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert parse(store="").store == Path("/home/alice/.cache/pulltap")


def test_whose_credentials_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").touch()
    own = Registry("ghcr.io", credentials=Path("/own.json"))
    found = parse(hosts=["quay.io"], docker_config="~/config.json", registries={"ghcr.io": own})
    assert found.docker_config == tmp_path / "config.json"
    assert found.registries["quay.io"].credentials == found.docker_config
    assert found.registries["ghcr.io"].credentials == Path("/own.json")
    assert parse().registries["ghcr.io"].credentials is None
    # Where the folder is named, it is the file in it that is meant.
    assert parse(docker_config=str(tmp_path)).docker_config == tmp_path / "config.json"
    by_folder = parse_registries({"ghcr.io": {"credentials": str(tmp_path)}})
    assert by_folder["ghcr.io"].credentials == tmp_path / "config.json"
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no .*config\.json"):
        parse(docker_config=str(tmp_path))


# The mapping of registries.


def test_nothing_said_is_no_mistake() -> None:
    assert parse_registries(None) == parse_registries({}) == {}


def test_all_that_can_be_said_about_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").touch()
    entry = {"auth": "inject", "ping": "local", "realms": ["Auth.GHCR.io", "x:5001"], "credentials": "~/config.json"}
    assert parse_registries({"GHCR.io:443": entry, "quay.io": {}}) == {
        "ghcr.io": Registry("ghcr.io", Auth.INJECT, Ping.LOCAL, ("auth.ghcr.io", "x:5001"), tmp_path / "config.json"),
        "quay.io": Registry("quay.io"),
    }


@pytest.mark.parametrize("name", ["registry-1.docker.io", "Registry-1.Docker.IO:443", "docker.io"])
def test_the_hub_keeps_what_is_not_said_otherwise(name: str) -> None:
    assert parse_registries({name: {"ping": "local"}}) == {DOCKER_HUB.host: replace(DOCKER_HUB, ping=Ping.LOCAL)}
    assert parse_registries({name: {"auth": "passthrough", "realms": []}}) == {
        DOCKER_HUB.host: Registry(DOCKER_HUB.host)
    }


@pytest.mark.parametrize(
    ("nested", "message", "keys"),
    [
        ([], "registries is to be a mapping from a registry's host", ()),
        (False, "registries is to be a mapping", ()),
        ("ghcr.io", "registries is to be a mapping", ()),
        ({"ghcr.io": None}, "registries.ghcr.io is to be a mapping", ("ghcr.io",)),
        ({"ghcr.io": "inject"}, "registries.ghcr.io is to be a mapping", ("ghcr.io",)),
        ({"GHCR.io": {}, "ghcr.io:443": {}}, "registries.ghcr.io:443 stands for ghcr.io", ("ghcr.io:443",)),
        ({"docker.io": {}, "registry-1.docker.io": {}}, "stands for registry-1", ("registry-1.docker.io",)),
        ({"ghcr.io": {"auth": "injekt"}}, "auth is 'injekt', but is to be one of inject, pass", ("ghcr.io", "auth")),
        ({"ghcr.io": {"auth": None}}, "registries.ghcr.io.auth is None, but", ("ghcr.io", "auth")),
        ({"ghcr.io": {"auth": ["inject"]}}, r"auth is \['inject'\], but", ("ghcr.io", "auth")),
        ({"ghcr.io": {"ping": False}}, "ping is False, but is to be one of upstream, local", ("ghcr.io", "ping")),
        ({"ghcr.io": {"realms": "ghcr.io"}}, "realms is to be a list of hosts", ("ghcr.io", "realms")),
        ({"ghcr.io": {"credentials": 5}}, "is to be the path of a Docker config.json", ("ghcr.io", "credentials")),
        ({"ghcr.io": {"credentials": ""}}, "is to be the path of a Docker config.json", ("ghcr.io", "credentials")),
        (
            {"ghcr.io": {"credentials": "/gone.json"}},
            "there is no /gone.json; docker login",
            ("ghcr.io", "credentials"),
        ),
        ({"ghcr.io": {"credentials": "~nobody-of-that-name/x"}}, "not known", ("ghcr.io", "credentials")),
        ({"ghcr.io": {"realm": ["x"]}}, "io.realm; did you mean realms", ("ghcr.io", "realm")),
        ({"ghcr.io": {"x": 1}}, "io.x; known are auth, credentials, ping, realms", ("ghcr.io", "x")),
        ({"ghcr.io": {5: 1}}, "unknown key registries.ghcr.io.5; known are", ("ghcr.io", "5")),
    ],
)
def test_what_cannot_be_said(nested: object, message: str, keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_registries(nested)
    assert refused.value.keys == (REGISTRIES, *keys)


@pytest.mark.parametrize(
    ("place", "known", "sentence"),
    [
        (["registry_host"], ["registry_hosts"], "unknown key registry_host; did you mean registry_hosts?"),
        (["registry_xyz"], ["b", "a"], "unknown key registry_xyz; known are a, b"),
        (["a", "b", "pings"], ["ping"], "unknown key a.b.pings; did you mean ping?"),
    ],
)
def test_the_sentence_about_an_unknown_key(place: list[str], known: list[str], sentence: str) -> None:
    assert settings.unknown(place, known) == sentence


# Clients.


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 192.0.2.1 ", "192.0.2.1/32"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::/0", "::/0"),
    ],
)
def test_networks_of_clients(text: str, network: str) -> None:
    assert [str(each) for each in parse(clients=[text]).clients] == [network]


@pytest.mark.parametrize(
    "text", ["", "lan", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "010.0.0.1", "fe80::1/129", "1,2", "10"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ConfigError, match=r"registry_clients: .* is no network, such as .*, and no address: ") as e:
        parse(clients=["10.0.0.0/8", text])
    assert e.value.keys == ("registry_clients",)


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1")],
)
def test_addresses_as_sockets_give_them(text: str, address: str) -> None:
    assert str(settings.address(text)) == address
    with pytest.raises(ValueError, match="does not appear"):
        settings.address("somewhere")
