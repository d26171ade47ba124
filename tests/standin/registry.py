"""The registry's front: asks for tokens, redirects blobs to the CDN, counts pulls, pages tag lists.

Everything else is the backing registry's own answer, byte for byte.
"""

import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, replace
from typing import Literal

from .backing import Backing
from .cdn import PREFIX, Cdn
from .tokens import Access, Grant, TokenService
from .wire import Answer, Request

BlobMode = Literal["cdn", "relative", "direct"]
WINDOW = 6 * 3600
"""Seconds of Docker Hub's pull limit."""

_ROUTE = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>.+)")
_API_VERSION = ("Docker-Distribution-Api-Version", "registry/2.0")


@dataclass(frozen=True)
class Names:
    """The host names of one registry."""

    registry: str = "registry-1.docker.io"
    auth: str = "auth.docker.io"
    cdn: str = "production.cloudfront.docker.com"
    service: str = "registry.docker.io"


class PullLimit:
    """Docker Hub's limit: manifest GETs per source, which is an account or an address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """A hundred pulls, and none of them used."""
        with self._lock:
            self.limit = 100
            self.retry_after = 60
            """Seconds, as the 429 says them."""
            self._used: dict[str, int] = {}

    def take(self, source: str, pulls: int) -> int | None:
        """Use up so many pulls; how many remain, or None where there were not enough."""
        with self._lock:
            used = self._used.get(source, 0) + pulls
            if used > self.limit and pulls:
                return None
            self._used[source] = used
            return max(0, self.limit - used)


class Registry:
    """Docker Hub's registry, as far as it differs from the one behind it."""

    def __init__(self, names: Names, backing: Backing, tokens: TokenService, cdn: Cdn) -> None:
        self.names = names
        self.blob_mode: BlobMode = "cdn"
        """Where blobs come from: the CDN's host, a relative redirect, or the registry itself."""
        self.pull_limit = PullLimit()
        self._backing = backing
        self._tokens = tokens
        self._cdn = cdn

    def answer(self, request: Request) -> Answer:
        """One request to the registry."""
        if request.path.startswith(PREFIX):
            return self._cdn.answer(request)  # the target of a relative redirect
        if request.path not in ("/v2", "/v2/") and not request.path.startswith("/v2/"):
            return Answer.of(404, b"404 page not found\n", ("Content-Type", "text/plain; charset=utf-8"))
        route = _ROUTE.fullmatch(request.path)
        needed = _needed(request, route["name"]) if route else []
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        grant = self._tokens.grant(token) if scheme.lower() == "bearer" else None
        if grant is None:
            return self._challenge(needed, "invalid_token" if token else "")
        if not set(needed) <= self._still_allowed(grant):
            return self._challenge(needed, "insufficient_scope")
        match (route["kind"] if route else "", request.method):
            case ("manifests", "GET" | "HEAD"):
                return self._manifest(request, grant)
            case ("blobs", "GET" | "HEAD"):
                return self._blob(request)
            case ("tags", "GET"):
                return self._tags(request)
        return self._backing.forward(request)

    def _still_allowed(self, grant: Grant) -> Access:
        """A right that an account has lost ends at once, whatever its token says."""
        return frozenset(pair for pair in grant.access if pair[1] in self._tokens.allowed(grant.account, pair[0]))

    def _manifest(self, request: Request, grant: Grant) -> Answer:
        source = grant.account or "127.0.0.1"
        # A HEAD tells the limit, and does not count against it.
        remaining = self.pull_limit.take(source, 1 if request.method == "GET" else 0)
        limits = (
            ("ratelimit-limit", f"{self.pull_limit.limit};w={WINDOW}"),
            ("ratelimit-remaining", f"{remaining or 0};w={WINDOW}"),
            ("docker-ratelimit-source", source),
        )
        if remaining is None:
            message = "You have reached your pull rate limit. You may increase the limit by authenticating."
            wait = ("Retry-After", str(self.pull_limit.retry_after))
            return _error(429, "TOOMANYREQUESTS", f"toomanyrequests: {message}", None, wait, *limits)
        answer = self._backing.forward(request)
        return replace(answer, headers=(*answer.headers, *limits))

    def _blob(self, request: Request) -> Answer:
        if self.blob_mode == "direct":
            return self._backing.forward(request)
        status, headers, _ = self._backing.ask("HEAD", request.path)
        if status != 200:  # unknown there, or the state of an upload
            return self._backing.forward(request)
        # A sha512 blob lies under its sha256 in distribution's storage, and its URL says so.
        location = self._cdn.signed(headers["docker-content-digest"])
        if self.blob_mode == "cdn":
            location = f"https://{self.names.cdn}{location}"
        kind = ("Content-Type", "application/octet-stream")
        return Answer.of(307, b"", kind, _API_VERSION, ("Location", location))

    def _tags(self, request: Request) -> Answer:
        """Pages by `n` and `last`, which this version of distribution does not do for tags."""
        query = request.parameters()
        whole = self._backing.forward(replace(request, query=""))
        if whole.status != 200 or "n" not in query:
            return whole
        content = json.loads(b"".join(whole.body))
        tags = [tag for tag in sorted(content["tags"] or []) if tag > query.get("last", [""])[0]]
        size = int(query["n"][0])
        content["tags"] = tags[:size]
        headers = [pair for pair in whole.headers if pair[0].lower() != "content-length"]
        if tags[size:]:
            following = urllib.parse.urlencode({"last": tags[size - 1], "n": size})
            headers.append(("Link", f'<{request.path}?{following}>; rel="next"'))
        return Answer.of(200, json.dumps(content, separators=(",", ":")).encode() + b"\n", *headers)

    def _challenge(self, needed: list[tuple[str, str]], error: str) -> Answer:
        value = f'Bearer realm="https://{self.names.auth}/token",service="{self.names.service}"'
        actions: dict[str, list[str]] = {}
        for name, action in needed:
            actions.setdefault(name, []).append(action)
        if actions:
            scopes = (f"repository:{name}:{','.join(found)}" for name, found in actions.items())
            value += f',scope="{" ".join(scopes)}"'
        if error:
            value += f',error="{error}"'
        detail = [{"Type": "repository", "Class": "", "Name": name, "Action": action} for name, action in needed]
        challenge = ("WWW-Authenticate", value)
        return _error(401, "UNAUTHORIZED", "authentication required", detail or None, _API_VERSION, challenge)


def _needed(request: Request, name: str) -> list[tuple[str, str]]:
    """What a request needs, as pairs of repository and action."""
    match request.method:
        case "GET" | "HEAD":
            return [(name, "pull")]
        case "DELETE":
            return [(name, "delete")]
    mounted = request.parameters().get("from", [])
    return [(name, "pull"), (name, "push"), *((other, "pull") for other in mounted)]


def _error(status: int, code: str, message: str, detail: object, *headers: tuple[str, str]) -> Answer:
    error = {"code": code, "message": message, "detail": detail}
    return Answer.json(status, {"errors": [error]}, *headers)
