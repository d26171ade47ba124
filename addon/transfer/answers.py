"""Answers that Pulltap gives in a registry's or an upstream's place."""

from mitmproxy import http

from addon.auth.tokens import TokenUnavailable
from addon.registry.errors import ErrorCode, SpecError
from addon.transfer.upstream import UpstreamError

_TEXT = "text/plain; charset=utf-8"


def text(status: int, body: str) -> http.Response:
    """A plain answer for people."""
    return http.Response.make(status, body, {"Content-Type": _TEXT})


def refusal(error: SpecError) -> http.Response:
    """The refusal of a request that Pulltap cannot accept, with the specification's error body."""
    return http.Response.make(error.status, error.body(), {"Content-Type": "application/json", **error.headers})


def unavailable(error: TokenUnavailable) -> http.Response:
    """The token service cannot help: 429 or 503, and when to try again; never a 401, which would mean the client."""
    if error.status == 429:
        return refusal(SpecError(429, ErrorCode.TOOMANYREQUESTS, str(error), {"Retry-After": error.retry_after}))
    response = text(503, f"pulltap: {error}\n")
    response.headers["Retry-After"] = error.retry_after
    return response


def unreachable(error: UpstreamError) -> http.Response:
    """Upstream gave no answer: 502 or 504, with the reason."""
    return text(error.status, f"pulltap: {error}\n")
