"""Content digests: the names of blobs.

Source: OCI Image Specification, descriptor.md, "Digests"::

    digest                ::= algorithm ":" encoded
    algorithm             ::= algorithm-component (algorithm-separator algorithm-component)*
    algorithm-component   ::= [a-z0-9]+
    algorithm-separator   ::= [+._-]
    encoded               ::= [a-zA-Z0-9=_-]+

The two registered algorithms narrow ``encoded``: sha256 is 64 and sha512 is 128 lower-case hex characters.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_GRAMMAR = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)", re.ASCII)
_REGISTERED = {
    "sha256": re.compile(r"[a-f0-9]{64}", re.ASCII),
    "sha512": re.compile(r"[a-f0-9]{128}", re.ASCII),
}
# Far above any registered algorithm, far below what a file system or a header would choke on.
_LONGEST = 512

ALGORITHMS = tuple(_REGISTERED)
"""The algorithms whose blobs can be verified, and so can be stored."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that obeys the grammar; `str()` gives its canonical form."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read a digest.

        Raises:
            ValueError: the text is not of the grammar, or not of its registered algorithm's length and alphabet.
        """
        match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None:
            raise ValueError(f"not a digest: {text[:80]!r}")
        algorithm, encoded = match["algorithm"], match["encoded"]
        registered = _REGISTERED.get(algorithm)
        if registered is not None and not registered.fullmatch(encoded):
            raise ValueError(f"not a {algorithm} digest: {text[:80]!r}")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> "Digest":
        """The digest of these bytes.

        Raises:
            ValueError: the algorithm is none of `ALGORITHMS`.
        """
        if algorithm not in _REGISTERED:
            raise ValueError(f"digests of {algorithm} cannot be made here")
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    @property
    def verifiable(self) -> bool:
        """Whether a blob can be checked against this digest; a blob of another algorithm is never stored."""
        return self.algorithm in _REGISTERED

    @property
    def short(self) -> str:
        """The form that people read: the algorithm and twelve characters."""
        return f"{self.algorithm}:{self.encoded[:12]}"

    def hasher(self) -> "_Hash":
        """A fresh hash of this digest's algorithm (only for a verifiable digest)."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"
