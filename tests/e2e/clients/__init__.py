"""Real clients, each with folders of its own, and the environment of the proxy that it is to use."""

from pathlib import Path
from typing import Protocol

from ..programs import environment


class Via(Protocol):
    """What a client must know of a proxy."""

    url: str
    ca: Path
    port: int


TRUST = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "SSL_CERT_FILE")
"""What says which proxy to use, and whom to trust."""


def client_environment(home: Path, via: Via, **more: str) -> dict[str, str]:
    """Proxy and trust as a user sets them, for clients that read them from the environment."""
    return environment(
        home,
        HTTPS_PROXY=via.url,
        HTTP_PROXY=via.url,
        https_proxy=via.url,
        http_proxy=via.url,
        SSL_CERT_FILE=str(via.ca),
        **more,
    )


def full_name(reference: str) -> str:
    """`library/small:latest` with its registry before it, for clients that assume none."""
    first = reference.partition("/")[0]
    return reference if "." in first or ":" in first else f"docker.io/{reference}"
