r"""Image references, as people type them.

Source: the grammar that Docker, containerd and Podman share (distribution/reference)::

    reference := name [ ":" tag ] [ "@" digest ]
    name      := [ domain "/" ] path
    tag       := [\w][\w.-]{0,127}
"""

import re
from dataclasses import dataclass

from addon.registry.digest import Digest
from addon.registry.routes import is_name, is_tag

_HUB, _HUB_NAME = "registry-1.docker.io", "docker.io"
_HUB_NAMES = (_HUB_NAME, "index.docker.io", _HUB)
_DOMAIN = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_USUAL_PORTS = (443, 80)


def familiar(registry: str) -> str:
    """The name of a registry in image references."""
    if registry == _HUB:
        return _HUB_NAME
    # Else it would be read as the beginning of a repository of Docker Hub.
    return registry if _is_domain(registry) else f"{registry}:443"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry."""

    registry: str
    """The registry's host, as Pulltap knows it: Docker Hub is ``registry-1.docker.io``."""
    repository: str
    reference: str
    """A tag, or a digest."""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read ``alpine``, ``ghcr.io/owner/name:tag`` or ``name@sha256:…``; the tag is ``latest`` where there is none.

        Raises:
            ValueError: the text is no reference.
        """
        named, at, digest = text.partition("@")
        first, slash, rest = named.partition("/")
        domain, path = (first.lower(), rest) if slash and _is_domain(first.lower()) else (_HUB_NAME, named)
        path, colon, tag = path.partition(":")
        registry = _registry(domain)
        if registry in _HUB_NAMES:
            registry, path = _HUB, path if "/" in path else f"library/{path}"
        if not registry or not is_name(path) or (colon and not is_tag(tag)):
            raise ValueError(f"no image: {text[:120]!r}; write name:tag, or registry/name:tag")
        # With both, the digest decides.
        return cls(registry, path, str(Digest.parse(digest)) if at else tag or "latest")

    @property
    def address(self) -> tuple[str, int]:
        """The registry's host, without the brackets of an IPv6 address, and its port."""
        host = _DOMAIN.fullmatch(self.registry)
        assert host
        return host["host"].strip("[]"), int(host["port"] or 443)

    @property
    def is_digest(self) -> bool:
        """Whether it names its manifest by a digest, and not by a tag."""
        return ":" in self.reference

    def __str__(self) -> str:
        return f"{familiar(self.registry)}/{self.repository}{'@' if self.is_digest else ':'}{self.reference}"


def _is_domain(first: str) -> bool:
    """Whether the first part of a reference is meant as a domain."""
    return first == "localhost" or "." in first or ":" in first


def _registry(domain: str) -> str:
    """``host``, or ``host:port`` where the port is not a usual one, as in registry_hosts; empty where it is neither."""
    match = _DOMAIN.fullmatch(domain)
    port = int(match["port"] or 443) if match else 0
    if match is None or not 0 < port < 65536:
        return ""
    return match["host"] if port in _USUAL_PORTS else f"{match['host']}:{port}"
