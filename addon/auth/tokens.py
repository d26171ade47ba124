"""Bearer tokens for registry requests that carry none.

Source: the distribution registry's "Token Authentication Specification" (GET) and "OAuth2 Token Specification" (POST,
for identity tokens).

A token is cached by realm, service, scope and whose credential it is, until shortly before it expires. Requests that
need the same one at the same time share one question to the token service; a question that failed is not kept.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from cachetools import TLRUCache

from addon.auth.credentials import Credential
from addon.auth.shared import Shared
from addon.settings import authority

# The specification's lifetime of a token that does not tell its own.
_DEFAULT_SECONDS = 60
# A token is given up this share of its life (but no more than so many seconds) early: it has to last until it arrives.
_MARGIN_SHARE, _MARGIN_SECONDS = 0.1, 30
_MOST_TOKENS = 4096
_RETRY_AFTER = "10"
# Seconds or a date (RFC 9110, section 10.2.3); anything else is not passed on to a client.
_WAIT = re.compile(r"[0-9A-Za-z,: ]{1,40}")
# Characters; the longest that are known, with their certificates inside, have some 10,000.
_LONGEST_TOKEN = 64 * 1024
CLIENT_ID = "pulltap"


@dataclass(frozen=True, slots=True)
class Realm:
    """Where a registry's tokens are made, and the name under which the token service knows the registry."""

    url: str
    service: str

    @property
    def host(self) -> str:
        """The token service's ``host``, or ``host:port`` where the port is not 443."""
        parts = urlsplit(self.url)
        return authority("https", parts.hostname or "", 443 if parts.port is None else parts.port)


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """One request to a token service."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the token service said."""

    status: int
    body: bytes
    retry_after: str | None = None


def waiting_time(retry_after: str | None) -> str:
    """A value for ``Retry-After``: the one that a server named, or, where it is none, ten seconds."""
    return retry_after if retry_after and _WAIT.fullmatch(retry_after) else _RETRY_AFTER


Fetch = Callable[[TokenQuestion], Awaitable[TokenAnswer]]
"""Asks a token service; raises OSError where it cannot be reached."""


class TokenUnavailable(Exception):
    """The token service cannot help now: the request is answered with this status and ``Retry-After``."""

    def __init__(self, message: str, status: int = 503, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = waiting_time(retry_after)


class TokenRefused(Exception):
    """The token service will not give this credential a token; the registry's own 401 says it better than we could."""


@dataclass(frozen=True, slots=True)
class _Key:
    realm: Realm
    scope: str
    credential: Credential | None


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    seconds: float


class Tokens:
    """The token cache; one for all registries."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._cache: TLRUCache[_Key, _Token] = TLRUCache(
            _MOST_TOKENS, ttu=lambda _key, token, now: now + token.seconds, timer=clock
        )
        self._questions = Shared(self._ask)

    async def get(self, realm: Realm, scope: str, credential: Credential | None = None) -> str:
        """A token that is good for ``scope`` (empty: for the registry's ping).

        Raises:
            TokenRefused: the credential is not accepted.
            TokenUnavailable: the token service fails, limits, or cannot be reached.
        """
        key = _Key(realm, scope, credential)
        token = self._cache.get(key) or await self._questions.answer(key)
        return token.value

    def discard(self, realm: Realm, scope: str, credential: Credential | None, value: str) -> None:
        """Forget a token that the registry refused, unless a newer one has taken its place."""
        key = _Key(realm, scope, credential)
        token = self._cache.get(key)
        if token is not None and token.value == value:
            del self._cache[key]

    async def _ask(self, key: _Key) -> _Token:
        question = _question(key)
        try:
            answer = await self._fetch(question)
        except OSError as e:
            raise TokenUnavailable(f"cannot reach the token service {key.realm.host}: {e}") from e
        service = f"the token service {key.realm.host}"
        if answer.status == 429:
            raise TokenUnavailable(f"{service} limits requests (429)", 429, answer.retry_after)
        if answer.status in (400, 401, 403, 404):
            raise TokenRefused(f"{service} refused a token for {key.scope!r} ({answer.status})")
        if answer.status != 200:
            raise TokenUnavailable(f"{service} failed ({answer.status})", retry_after=answer.retry_after)
        token = self._cache[key] = _read(key.realm, answer.body)
        return token


def _question(key: _Key) -> TokenQuestion:
    params = {"service": key.realm.service} if key.realm.service else {}
    scopes = key.scope.split()
    credential = key.credential
    if credential is not None and credential.identity_token:
        form = {"grant_type": "refresh_token", "refresh_token": credential.identity_token, "client_id": CLIENT_ID}
        body = urlencode({**form, **params, "scope": key.scope}).encode()
        return TokenQuestion("POST", key.realm.url, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    headers = {"Authorization": credential.basic()} if credential is not None else {}
    if credential is not None:
        params["account"] = credential.user
    query = urlencode([*params.items(), *(("scope", scope) for scope in scopes)])
    separator = "&" if urlsplit(key.realm.url).query else "?"
    return TokenQuestion("GET", f"{key.realm.url}{separator}{query}", headers)


def _read(realm: Realm, body: bytes) -> _Token:
    try:
        answer = json.loads(body)
        value = answer.get("token") or answer.get("access_token")
        lifetime = float(answer.get("expires_in") or _DEFAULT_SECONDS)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        raise TokenUnavailable(f"the token service {realm.host} sent something that is no token") from None
    # A token becomes a header: nothing may pass that could end the line.
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise TokenUnavailable(f"the token service {realm.host} sent no token")
    if len(value) > _LONGEST_TOKEN:
        raise TokenUnavailable(f"the token service {realm.host} sent a token of {len(value)} characters")
    return _Token(value, lifetime - min(lifetime * _MARGIN_SHARE, _MARGIN_SECONDS))
