"""The configuration: options that mitmproxy declares for us, and the mapping ``registries:`` of the same file.

mitmproxy reads ``<confdir>/config.yaml``, passes over keys that it does not know, and reports a value of the wrong type
without its line. So the file is read here once more, for its lines: `check_file` finds what is misspelt or mistyped,
before it could be taken for configured.
"""

import difflib
import enum
import ipaddress
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

DEFAULT_HOSTS = (
    "registry-1.docker.io",
    "ghcr.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "public.ecr.aws",
    "mcr.microsoft.com",
    "registry.gitlab.com",
)
REGISTRIES = "registries"
_HOST = re.compile(
    r"(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE | re.ASCII
)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and the way out."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys
        """The path of the key that is wrong."""


class Auth(enum.StrEnum):
    """What becomes of a request without ``Authorization``."""

    INJECT = "inject"
    PASSTHROUGH = "passthrough"


class Ping(enum.StrEnum):
    """Who answers ``GET /v2/``: the registry, or Pulltap."""

    UPSTREAM = "upstream"
    LOCAL = "local"


class Access(enum.StrEnum):
    """Whether a stored blob is served only to those who may pull it."""

    CHECK = "check"
    TRUST = "trust"


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that Pulltap knows, as configured."""

    host: str
    """``host``, or ``host:port`` where the port is not the scheme's own."""
    auth: Auth = Auth.PASSTHROUGH
    ping: Ping = Ping.UPSTREAM
    realms: tuple[str, ...] = ()
    """Hosts of token services that may be asked for this registry, beside the registry's own."""
    credentials: Path | None = None
    """The Docker ``config.json`` that holds this registry's credential."""


DOCKER_HUB = Registry("registry-1.docker.io", auth=Auth.INJECT, realms=("auth.docker.io",))
# What image references call Docker Hub, where no registry answers, and a name of the same registry that some clients
# use (go-containerregistry: crane, ko, kaniko).
_HUB_REFERENCE, HUB_ALIAS = "docker.io", "index.docker.io"
# Where the tokens of the well-known public ones are made: for most at their own host, which needs no saying
# (ghcr.io/token, quay.io/v2/auth, gcr.io/v2/token, public.ecr.aws/token/). registry.k8s.io and mcr.microsoft.com want
# none for a pull.
_GITLAB = Registry("registry.gitlab.com", realms=("gitlab.com",))
_KNOWN = {registry.host: registry for registry in (DOCKER_HUB, _GITLAB)}


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the configuration, parsed."""

    registries: Mapping[str, Registry]
    store: Path
    max_size: int
    """Bytes that the store may hold."""
    min_free: int
    """Bytes of the store's disk that stay free."""
    access: Access
    docker_config: Path | None
    max_fills: int
    """How many blobs may be fetched at once."""
    fill_connections: int
    """Over how many connections a large blob is fetched."""
    access_grace: int
    """For how many seconds an expired verdict stands where upstream cannot be asked."""
    clients: tuple[Network, ...]
    """Who is let in, beside this machine itself; empty means everybody."""

    def registry(self, scheme: str, host: str, port: int) -> Registry | None:
        """The registry at this address; None where the address is of no concern to Pulltap."""
        name = authority(scheme, host, port)
        return self.registries.get(DOCKER_HUB.host if name == HUB_ALIAS else name)


def authority(scheme: str, host: str, port: int) -> str:
    """``host``, or ``host:port`` where the port is not the scheme's own."""
    host = host.lower().rstrip(".")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return host if port == {"https": 443, "http": 80}.get(scheme) else f"{host}:{port}"


def address(text: str) -> Address:
    """An address as a socket gives it, an IPv4 one in IPv6's clothes as what it is.

    Raises:
        ValueError: it is none.
    """
    parsed = ipaddress.ip_address(text.partition("%")[0])
    return (parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None) or parsed


def default_store() -> Path:
    """Where the store is if nobody says otherwise (XDG Base Directory Specification, which ignores a relative path)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "pulltap"


def parse(
    *,
    hosts: Sequence[str],
    store: str,
    max_size: int | None,
    min_free: int | None,
    access: str,
    docker_config: str,
    max_fills: int,
    fill_connections: int,
    access_grace: int,
    clients: Sequence[str],
    registries: Mapping[str, Registry],
) -> Settings:
    """Put the options' values together.

    Raises:
        ConfigError: a value means nothing.
    """
    if max_size is None or max_size <= 0:
        raise ConfigError("registry_store_max_size is to be a size such as 50g", "registry_store_max_size")
    if min_free is None or min_free < 0:
        raise ConfigError("registry_store_min_free is to be a size such as 1g, or 0", "registry_store_min_free")
    config = _docker_config(docker_config, "registry_docker_config") if docker_config else None
    known = {_host(host, "registry_hosts"): None for host in hosts}
    named = {host: registries.get(host) or _KNOWN.get(host) or Registry(host) for host in (*known, *registries)}
    return Settings(
        registries={
            host: registry if registry.credentials or not config else replace(registry, credentials=config)
            for host, registry in named.items()
        },
        store=_path(store, "registry_store") if store else default_store(),
        max_size=max_size,
        min_free=min_free,
        access=_choice(Access, access, "registry_access"),
        docker_config=config,
        max_fills=_count(max_fills, "registry_max_fills"),
        fill_connections=_count(fill_connections, "registry_fill_connections"),
        access_grace=_count(access_grace, "registry_access_grace", least=0),
        clients=tuple(_network(text, "registry_clients") for text in clients),
    )


def parse_registries(nested: object) -> dict[str, Registry]:
    """Read the mapping ``registries:``.

    Raises:
        ConfigError: a key is unknown or a value means nothing.
    """
    if nested is None:
        # All its entries are commented out.
        return {}
    if not isinstance(nested, dict):
        raise ConfigError(f"{REGISTRIES} is to be a mapping from a registry's host to its settings", REGISTRIES)
    registries: dict[str, Registry] = {}
    for name, entry in nested.items():
        host = _host(name, REGISTRIES, str(name))
        if host in registries:
            raise ConfigError(f"{REGISTRIES}.{name} stands for {host}, which is there already", REGISTRIES, str(name))
        registries[host] = _registry(host, str(name), entry)
    return registries


def _registry(host: str, name: str, entry: object) -> Registry:
    if not isinstance(entry, dict):
        raise ConfigError(f"{REGISTRIES}.{name} is to be a mapping", REGISTRIES, name)
    registry = _KNOWN.get(host) or Registry(host)
    for key, value in entry.items():
        place = (REGISTRIES, name, str(key))
        match key:
            case "auth":
                registry = replace(registry, auth=_choice(Auth, value, *place))
            case "ping":
                registry = replace(registry, ping=_choice(Ping, value, *place))
            case "realms":
                if not isinstance(value, list):
                    raise ConfigError(f"{'.'.join(place)} is to be a list of hosts", *place)
                registry = replace(registry, realms=tuple(_host(realm, *place) for realm in value))
            case "credentials":
                if not isinstance(value, str) or not value:
                    raise ConfigError(f"{'.'.join(place)} is to be the path of a Docker config.json", *place)
                registry = replace(registry, credentials=_docker_config(value, *place))
            case _:
                raise ConfigError(unknown(place, ("auth", "ping", "realms", "credentials")), *place)
    return registry


def _choice[E: enum.StrEnum](kind: type[E], value: object, *place: str) -> E:
    try:
        return kind(str(value))
    except ValueError:
        raise ConfigError(f"{'.'.join(place)} is {value!r}, but is to be one of {', '.join(kind)}", *place) from None


def _host(text: object, *place: str) -> str:
    match = _HOST.fullmatch(text) if isinstance(text, str) else None
    port = int(match["port"] or 443) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigError(f"{'.'.join(place)}: {text!r} is no host and no host:port", *place)
    # As in `authority`, a scheme's own port goes without saying.
    host = match["host"].lower() + (f":{port}" if port not in (80, 443) else "")
    return DOCKER_HUB.host if host in (_HUB_REFERENCE, HUB_ALIAS) else host


def _count(number: int, key: str, least: int = 1) -> int:
    if number < least:
        raise ConfigError(f"{key} is {number}, but is to be {least} or more", key)
    return number


def _network(text: str, key: str) -> Network:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as e:
        raise ConfigError(f"{key}: {text!r} is no network, such as 10.0.0.0/8, and no address: {e}", key) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        # Clients are known by their IPv4 address, whichever clothes it came in.
        return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _docker_config(text: str, *place: str) -> Path:
    """The ``config.json`` itself, where its folder is named, as in Docker's own ``DOCKER_CONFIG``."""
    path = _path(text, *place)
    path = path / "config.json" if path.is_dir() else path
    try:
        path.stat()
    except FileNotFoundError:
        raise ConfigError(f"{'.'.join(place)}: there is no {path}; docker login makes one", *place) from None
    except OSError as e:
        raise ConfigError(f"{'.'.join(place)}: {path} cannot be read: {e.strerror}", *place) from None
    return path


def _path(text: str, *place: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{'.'.join(place)}: {text!r} names a home folder that is not known", *place) from None


def unknown(place: Sequence[str], known: Collection[str]) -> str:
    """The sentence about a key that nobody knows, with the one that was probably meant."""
    close = difflib.get_close_matches(place[-1], known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"unknown key {'.'.join(place)}; {hint}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in the file: the line, counted from 1, the top-level key, and the sentence."""

    path: Path
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The file as read for its lines: what each top-level key holds, and where it stands."""

    path: Path
    values: Mapping[Any, object]
    lines: Mapping[tuple[str, ...], int]

    def line(self, keys: Sequence[str]) -> int:
        """The line of a key given by its path; of the nearest key above it, where it is not there itself."""
        keys = tuple(keys)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)

    def place(self, keys: Sequence[str]) -> str:
        """``path:line: `` for a key of this file; empty for one that was set elsewhere."""
        return f"{self.path}:{self.line(keys)}: " if keys and keys[0] in self.values else ""


def read_file(path: Path) -> ConfigFile:
    """Read the file with the lines of its keys.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    path = path.resolve()
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    except yaml.MarkedYAMLError as e:
        line = f":{e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not YAML: {e.problem or e.context}") from None
    except (yaml.YAMLError, ValueError) as e:
        raise ConfigError(f"{path}: {e}") from None
    except RecursionError:
        raise ConfigError(f"{path}: this is nested too deeply") from None
    return ConfigFile(path, values if isinstance(values, dict) else {}, dict(_lines(root, (), set())))


def _lines(
    node: yaml.Node | None, above: tuple[str, ...], seen: set[yaml.Node]
) -> Iterator[tuple[tuple[str, ...], int]]:
    # An alias stands for a node that may be above it, or in a thousand other places.
    if isinstance(node, yaml.MappingNode) and node not in seen:
        seen.add(node)
        for key, value in node.value:
            here = (*above, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here, seen)


def check_file(file: ConfigFile, types: Mapping[str, Any]) -> list[Fault]:
    """Find the keys of the file that are ours and wrong.

    Args:
        file: the file.
        types: our options' names with their types.
    """
    faults = []
    for key, value in file.values.items():
        if key == REGISTRIES:
            try:
                parse_registries(value)
            except ConfigError as e:
                faults.append(Fault(file.path, file.line(e.keys), key, str(e)))
        elif str(key).startswith("registry_"):
            if key not in types:
                faults.append(Fault(file.path, file.line([key]), key, unknown([key], types)))
            elif not _is(value, types[key]):
                kind = {str: "a string", int: "a whole number", bool: "true or false"}.get(
                    types[key], "a list of strings"
                )
                message = f"{key} is {value!r}, but is to be {kind}"
                faults.append(Fault(file.path, file.line([key]), key, message))
    return faults


def _is(value: object, kind: Any) -> bool:
    if kind in (str, int, bool):
        return type(value) is kind
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
