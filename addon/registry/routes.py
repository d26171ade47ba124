r"""What a path under ``/v2/`` asks for.

Source: OCI Distribution Specification 1.1, "Endpoints", and its grammar of names::

    name      ::= component ("/" component)*
    component ::= [a-z0-9]+ ((\. | _ | __ | -+) [a-z0-9]+)*
    tag       ::= [a-zA-Z0-9_] [a-zA-Z0-9._-]{0,127}

`parse` only tells the kinds of request apart, since most of them pass untouched, whatever their name looks like.
Blob requests are the exception: what Pulltap answers itself it also checks, with `Route.blob`.
"""

import enum
import re
from dataclasses import dataclass
from urllib.parse import unquote

from addon.registry.digest import Digest
from addon.registry.errors import ErrorCode, SpecError

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
# The specification recommends it, and the distribution registry enforces it.
_LONGEST_NAME = 255


def is_name(text: str) -> bool:
    """Whether this is a repository's name."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether this may be a tag."""
    return _TAG.fullmatch(text) is not None


class Kind(enum.Enum):
    """The kinds of request that a registry answers."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOAD = "upload"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """A request's kind, the repository it names, and the last part of its path (tag, digest or upload)."""

    kind: Kind
    repository: str = ""
    reference: str = ""

    def blob(self) -> Digest:
        """The digest of a blob request, once its repository name and its digest were found to be well-formed.

        Raises:
            SpecError: ``NAME_INVALID`` or ``DIGEST_INVALID``, to be answered with 400.
        """
        if not is_name(self.repository):
            raise SpecError(400, ErrorCode.NAME_INVALID, f"invalid repository name: {self.repository[:80]!r}")
        try:
            return Digest.parse(self.reference)
        except ValueError as e:
            raise SpecError(400, ErrorCode.DIGEST_INVALID, str(e)) from None

    def is_manifest_of(self, digest: Digest) -> bool:
        """Whether this asks for a manifest that may have this digest: by a tag, or by the digest itself."""
        well_formed = self.kind is Kind.MANIFEST and is_name(self.repository)
        return well_formed and digest.verifiable and (is_tag(self.reference) or self.reference == str(digest))


# Tried in this order; the repository takes as much as it can, as in the distribution registry's router. Uploads to
# ghcr.io go on at locations with "upload".
_ROUTES = (
    (Kind.UPLOAD, re.compile(r"(?P<repository>.+)/blobs/uploads?(?:/(?P<reference>.*))?", re.DOTALL)),
    (Kind.BLOB, re.compile(r"(?P<repository>.+)/blobs/(?P<reference>[^/]+)", re.DOTALL)),
    (Kind.MANIFEST, re.compile(r"(?P<repository>.+)/manifests/(?P<reference>[^/]+)", re.DOTALL)),
    (Kind.TAGS, re.compile(r"(?P<repository>.+)/tags/list", re.DOTALL)),
    (Kind.REFERRERS, re.compile(r"(?P<repository>.+)/referrers/(?P<reference>[^/]+)", re.DOTALL)),
)


def parse(target: str) -> Route | None:
    """Tell what a request target asks for; None where it is not under ``/v2/``.

    Args:
        target: the path with its query, as the client sent it.
    """
    path = unquote(target.partition("?")[0])
    if path in ("/v2", "/v2/"):
        return Route(Kind.PING)
    if not path.startswith("/v2/"):
        return None
    rest = path.removeprefix("/v2/")
    if rest == "_catalog":
        return Route(Kind.CATALOG)
    for kind, pattern in _ROUTES:
        if match := pattern.fullmatch(rest):
            return Route(kind, **{name: value or "" for name, value in match.groupdict().items()})
    return Route(Kind.OTHER)
