"""The token service: who may do what, and tokens that end by a clock which the test moves."""

import base64
import binascii
import datetime
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from .wire import Answer, Request

Access = frozenset[tuple[str, str]]
"""Pairs of repository and action."""


class Clock:
    """The real time, plus what the test has added."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds


@dataclass(frozen=True)
class Account:
    """A login. It may pull everything public, and pull and push in its own repositories."""

    name: str
    password: str
    repositories: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Grant:
    """What a token stands for."""

    account: str
    access: Access
    expires: float


class TokenService:
    """`GET /token` and `POST /token`, as Docker Hub's and the distribution spec have them."""

    def __init__(self, clock: Clock, service: str, exists: Callable[[str], bool]) -> None:
        self.clock = clock
        self.service = service
        self._exists = exists
        self._lock = threading.Lock()
        self._grants: dict[str, Grant] = {}
        self._refresh: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """No accounts, nothing private, all tokens void."""
        with self._lock:
            self.accounts: dict[str, Account] = {}
            self.private: set[str] = set()
            self.expires_in = 300
            """Lifetime of a token, in seconds."""
            self._grants.clear()
            self._refresh.clear()

    def revoke(self) -> None:
        """Void all bearer tokens given out so far, before their time."""
        with self._lock:
            self._grants.clear()

    def grant(self, token: str) -> Grant | None:
        """What a bearer token stands for; None where it is unknown, revoked or expired."""
        with self._lock:
            found = self._grants.get(token)
        return found if found and found.expires > self.clock.now() else None

    def allowed(self, account: str, repository: str) -> frozenset[str]:
        """The actions an account ("" is anonymous) may take in a repository."""
        login = self.accounts.get(account)
        if login and repository in login.repositories:
            return frozenset({"pull", "push", "delete"})
        if repository in self.private or not self._exists(repository):
            return frozenset()
        return frozenset({"pull"})

    def issue(self, account: str, scopes: list[str]) -> tuple[str, Grant]:
        """A new token with as much of the scopes as the account may have."""
        wanted = {pair for scope in scopes for pair in parse_scope(scope)}
        access = frozenset(pair for pair in wanted if pair[1] in self.allowed(account, pair[0]))
        grant = Grant(account, access, self.clock.now() + self.expires_in)
        token = self._jwt(grant)
        with self._lock:
            self._grants[token] = grant
        return token, grant

    def answer(self, request: Request) -> Answer:
        """One request to the token service."""
        if request.path != "/token":
            return Answer.of(404, b"404 page not found\n", ("Content-Type", "text/plain; charset=utf-8"))
        if request.method == "GET":
            return self._get(request)
        if request.method == "POST":
            return self._post(urllib.parse.parse_qs(b"".join(request.body).decode()))
        return Answer.of(405, b"")

    def _get(self, request: Request) -> Answer:
        query = request.parameters()
        account = ""
        if authorization := request.header("Authorization"):
            name, password = parse_basic(authorization)
            if not self._knows(name, password):
                return _refused()
            account = name
        offline = account and query.get("offline_token") == ["true"]
        content = self._issued(account, _scopes(query), self._new_refresh(account) if offline else "")
        content["token"] = content["access_token"]
        return Answer.json(200, content)

    def _post(self, form: dict[str, list[str]]) -> Answer:
        match form.get("grant_type"):
            case ["password"]:
                account = form.get("username", [""])[0]
                if not self._knows(account, form.get("password", [""])[0]):
                    return _refused()
                refresh = self._new_refresh(account)
            case ["refresh_token"]:
                refresh = form.get("refresh_token", [""])[0]
                with self._lock:
                    account = self._refresh.get(refresh, "")
                if not account:
                    return _refused()
            case _:
                return Answer.json(400, {"details": "unsupported grant type"})
        return Answer.json(200, self._issued(account, _scopes(form), refresh))

    def _issued(self, account: str, scopes: list[str], refresh: str) -> dict[str, object]:
        token, grant = self.issue(account, scopes)
        issued = datetime.datetime.fromtimestamp(self.clock.now(), datetime.UTC)
        content: dict[str, object] = {
            "access_token": token,
            "scope": " ".join(f"repository:{name}:{action}" for name, action in sorted(grant.access)),
            "expires_in": self.expires_in,
            "issued_at": issued.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        if refresh:
            content["refresh_token"] = refresh
        return content

    def _knows(self, name: str, password: str) -> bool:
        account = self.accounts.get(name)
        return account is not None and account.password == password

    def _new_refresh(self, account: str) -> str:
        token = f"refresh-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._refresh[token] = account
        return token

    def _jwt(self, grant: Grant) -> str:
        """Shaped like the real ones, about as long, and unique; the signature is noise."""
        by_repository: dict[str, list[str]] = {}
        for name, action in sorted(grant.access):
            by_repository.setdefault(name, []).append(action)
        access = [{"type": "repository", "name": n, "actions": a} for n, a in by_repository.items()]
        claims = {
            "access": access,
            "aud": self.service,
            "exp": int(grant.expires),
            "iat": int(self.clock.now()),
            "iss": "auth.docker.io",
            "jti": f"dckr_jti_{secrets.token_urlsafe(16)}",
            "sub": grant.account,
        }
        header = {"alg": "ES256", "typ": "JWT", "x5c": [secrets.token_urlsafe(600)]}
        parts = (json.dumps(header).encode(), json.dumps(claims).encode(), secrets.token_bytes(64))
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def parse_scope(scope: str) -> list[tuple[str, str]]:
    """`repository:library/small:pull,push` as pairs of repository and action; other types grant nothing."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    if kind != "repository":
        return []
    return [(name, action) for action in actions.split(",") if action]


def parse_basic(authorization: str) -> tuple[str, str]:
    """Name and password of a Basic credential; two empty strings for anything else."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password


def _scopes(parameters: dict[str, list[str]]) -> list[str]:
    return [scope for value in parameters.get("scope", []) for scope in value.split(" ")]


def _refused() -> Answer:
    return Answer.json(401, {"details": "incorrect username or password"})
