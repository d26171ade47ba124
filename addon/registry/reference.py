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
_DOMAIN = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?", re.ASCII)


def familiar(registry: str) -> str:
    """The name of a registry in image references."""
    return _HUB_NAME if registry == _HUB else registry


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
        if slash and (first == "localhost" or "." in first or ":" in first):
            domain, path = first, rest
        else:
            domain, path = _HUB_NAME, named
        path, colon, tag = path.partition(":")
        if domain in _HUB_NAMES:
            domain, path = _HUB, path if "/" in path else f"library/{path}"
        if not _DOMAIN.fullmatch(domain) or not is_name(path) or (colon and not is_tag(tag)):
            raise ValueError(f"no image: {text[:120]!r}; write name:tag, or registry/name:tag")
        if at:
            # With both, the digest decides.
            return cls(domain, path, str(Digest.parse(digest)))
        return cls(domain.lower(), path, tag or "latest")

    @property
    def is_digest(self) -> bool:
        """Whether it names its manifest by a digest, and not by a tag."""
        return ":" in self.reference

    def __str__(self) -> str:
        return f"{familiar(self.registry)}/{self.repository}{'@' if self.is_digest else ':'}{self.reference}"
