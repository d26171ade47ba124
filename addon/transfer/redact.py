"""What of a request or an answer may be kept: all but its secrets.

Tokens, passwords and cookies stand in headers, signatures in the URLs that a registry redirects to, and tokens once
more in the answers of token services. What a URL's query, a form or such an answer may keep is named here; whatever
else it holds becomes `REDACTED` (go-containerregistry's internal/redact does it this way: a list of the secret ones
would miss the next CDN's).

Nothing here changes a message: what has no secret is handed back as it is, else a copy without it. A message may still
be on its way, or be the model of the next one.
"""

import json
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_plus

from mitmproxy import http

from addon.registry import routes
from addon.registry.routes import Kind

REDACTED = "REDACTED"

_PARAMETERS = {
    # A question to a token service.
    *("service", "scope", "account", "client_id", "grant_type", "access_type", "offline_token"),
    # A question to a registry.
    *("mount", "from", "digest", "n", "last", "artifacttype", "ns", "tag"),
    # For how long a signed URL is good, and by which method; not its signature.
    *("expires", "x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-goog-algorithm", "x-goog-date", "x-goog-expires"),
    *("se", "sp", "sr", "st", "sv"),
}
"""Names, in lower case, of a query or a form whose values stay."""
_FIELDS = {
    *("expires_in", "issued_at", "scope", "token_type", "status", "error", "error_description", "errors"),
    *("code", "message", "detail", "details"),
}
"""Names in a token service's JSON whose strings stay."""
_SCHEMES = {"basic", "bearer", "digest", "negotiate"}
_SECRET_HEADER = re.compile(
    r"authori[sz]ation|authentication-info|cookie|token|secret|passw|credential|signature|api-?key|session|-auth\b"
)
_URL_HEADERS = {"location", "content-location", "link", "referer", "refresh"}
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)
_USER = re.compile(r"(//)[^/?#@\s]*@")
# Some registries put what opens a blob into the path of its address. Digests stay.
_OPAQUE = re.compile(r"(?<=/)(?!(?:sha\d+[:/])?[0-9a-f]+(?=[/?#]|$))[^/?#]{100,}")
_TOKEN_FIELD = re.compile(rb'("(?:\w*token|password|secret)"\s*:\s*)"(?:[^"\\]|\\.)*"?', re.IGNORECASE)
# Shorter ones say nothing, and would be found everywhere.
_SHORTEST = 6
_PLAIN_KINDS = frozenset(Kind) - {Kind.OTHER}


def request(message: http.Request, found: set[str]) -> http.Request:
    """A request without its secrets, which are added to ``found``."""
    path = reference(message.path, found)
    fields = _fields(message.headers, found)
    trailers = _fields(message.trailers, found) if message.trailers else None
    content = message.raw_content
    if content and _kind(message) not in _PLAIN_KINDS:
        form = "x-www-form-urlencoded" in message.headers.get("content-type", "")
        content = _form(content, found) if form else _json(content, found) or REDACTED.encode()
    if path == message.path and fields is None and trailers is None and content == message.raw_content:
        return message
    kept = message.copy()
    kept.path, kept.raw_content = path, content
    _put(kept, fields, trailers)
    return kept


def response(message: http.Response, asked: http.Request, found: set[str]) -> http.Response:
    """An answer without its secrets, and without those of its request that it repeats.

    Args:
        message: the answer.
        asked: the request that it is to.
        found: the secrets of the request; those of the answer are added.
    """
    fields = _fields(message.headers, found)
    trailers = _fields(message.trailers, found) if message.trailers else None
    coded = message.headers.get("content-encoding", "identity") != "identity"
    content = message.raw_content
    if content and _kind(asked) in _PLAIN_KINDS:
        # A manifest, a list, an error; a token only where a registry does strange things.
        content = _TOKEN_FIELD.sub(rb'\1"' + REDACTED.encode() + b'"', content) if b'"' in content else content
    elif content and coded:
        # Whatever is in it.
        content = REDACTED.encode()
    elif content and message.status_code >= 400:
        content = _json(content, found) or content
    elif content:
        content = _json(content, found) or REDACTED.encode()
    if content and message.status_code >= 400:
        content = text(content.decode("utf-8", "surrogateescape"), found).encode("utf-8", "surrogateescape")
    if fields is None and trailers is None and content == message.raw_content:
        return message
    kept = message.copy()
    kept.raw_content = content
    _put(kept, fields, trailers)
    if coded and content != message.raw_content:
        kept.headers.pop("content-encoding", None)
    return kept


def text(said: str, found: set[str]) -> str:
    """A text without the secrets that were found elsewhere, longest first: one may be part of another."""
    for secret in sorted(found, key=len, reverse=True):
        said = said.replace(secret, REDACTED)
    return said


def reference(uri: str, found: set[str]) -> str:
    """A URI, or the target of a request, without user, signature, or other query that is not known to be harmless."""
    if "@" in uri:
        uri = _USER.sub(rf"\1{REDACTED}@", uri)
    uri, hashed, fragment = uri.partition("#")
    path, asks, query = uri.partition("?")
    if len(path) > 100:
        path = _OPAQUE.sub(lambda match: _note(match[0], found), path)
    kept = _pairs(query, found, plus=False) if query else ""
    return f"{path}{asks}{kept}{hashed}{_note(fragment, found) if fragment else ''}"


def header(name: str, value: str, found: set[str]) -> str:
    """A header's value without its secrets."""
    kind = _header_kind(name.lower())
    if kind == "secret":
        scheme, space, secret = value.partition(" ")
        if not space or scheme.lower() not in _SCHEMES:
            return _note(value, found)
        return f"{scheme} {_note(secret.strip(), found)}"
    if kind == "url" or ("://" in value and kind != "challenge"):
        if "<" in value:
            return re.sub(r"<([^>]*)>?", lambda match: f"<{reference(match[1], found)}>", value)
        return reference(value, found)
    return value


@lru_cache(1024)
def _header_kind(name: str) -> str:
    if name.endswith("-authenticate"):
        return "challenge"
    if _SECRET_HEADER.search(name):
        return "secret"
    return "url" if name in _URL_HEADERS else ""


def _kind(message: http.Request) -> Kind | None:
    route = routes.parse(message.path)
    return route.kind if route else None


def _fields(headers: http.Headers, found: set[str]) -> tuple[tuple[bytes, bytes], ...] | None:
    """The lines of a head without secrets; None where there are none."""
    kept = tuple((name, _encode(header(_decode(name), _decode(value), found))) for name, value in headers.fields)
    return kept if kept != headers.fields else None


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encode(said: str) -> bytes:
    return said.encode("utf-8", "surrogateescape")


def _put(
    message: http.Message,
    fields: tuple[tuple[bytes, bytes], ...] | None,
    trailers: tuple[tuple[bytes, bytes], ...] | None,
) -> None:
    if fields is not None:
        message.headers = http.Headers(fields)
    if trailers is not None:
        message.trailers = http.Headers(trailers)


def _note(secret: str, found: set[str]) -> str:
    """Remember a secret, as it stands and as it may be quoted; what takes its place."""
    for form in (secret, unquote(secret), unquote_plus(secret)):
        if len(form) >= _SHORTEST and form != REDACTED:
            found.add(form)
    return REDACTED


def _pairs(query: str, found: set[str], *, plus: bool) -> str:
    parts = re.split(r"([&;])", query)
    for at in range(0, len(parts), 2):
        name, equals, value = parts[at].partition("=")
        if not parts[at]:
            continue
        if not equals or not value or not _NAME.fullmatch(name):
            # A secret may stand where a name is due.
            parts[at] = _note(parts[at], found) if name.lower() not in _PARAMETERS else parts[at]
        elif (unquote_plus(name) if plus else unquote(name)).lower() not in _PARAMETERS:
            parts[at] = f"{name}={_note(value, found)}"
    return "".join(parts)


def _form(content: bytes, found: set[str]) -> bytes:
    return _encode(_pairs(_decode(content), found, plus=True))


def _json(content: bytes, found: set[str]) -> bytes | None:
    """JSON of which only known fields keep their strings; None where it is none."""
    try:
        value = json.loads(content)
        kept = _walk(value, found, "")
    except (ValueError, RecursionError):
        return None
    return content if kept == value else json.dumps(kept).encode()


def _walk(value: Any, found: set[str], name: str) -> Any:
    match value:
        case dict():
            return {key: _walk(each, found, key) for key, each in value.items()}
        case list():
            return [_walk(each, found, name) for each in value]
        case str() if value and name.lower() not in _FIELDS:
            return _note(value, found)
        case _:
            return value
