"""With whose credential a request goes upstream.

The client's own ``Authorization`` always wins, untouched. Where it brings none, and the registry's entry says
``auth: inject``, the request gets a bearer token: for the configured credential, where there is one, else an anonymous
one. Where tokens are made is known for Docker Hub, and learned for every other registry from its 401 challenge.

A credential goes to the realm hosts that are allowed for its registry, over TLS, and nowhere else, whatever a challenge
says (CVE-2026-33540 was that mistake).
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from cachetools import TTLCache

from addon.auth.access import ANONYMOUS, credential_of
from addon.auth.credentials import Credential, CredentialError, DockerConfig
from addon.auth.tokens import Realm, TokenRefused, Tokens
from addon.registry import challenge
from addon.registry.routes import Kind, Route
from addon.settings import DOCKER_HUB, Auth, Registry

logger = logging.getLogger(__name__)

_HUB_REALM = Realm("https://auth.docker.io/token", "registry.docker.io")
# What a challenge said holds for so many seconds.
_LEARNED_SECONDS = 3600
_MOST_LEARNED = 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request carries upstream, and under which name its verdicts are kept."""

    authorization: str | None
    """The value for ``Authorization``; None where there is none."""
    credential: str
    injected: bool = False
    """Whether Pulltap chose it in the client's place."""
    renewed: bool = False
    """Whether it took the place of one that was refused; its own refusal then stands."""


NONE = Grant(None, ANONYMOUS)


READ = ("GET", "HEAD")
"""The methods that change nothing."""


def scope_of(route: Route, method: str) -> str:
    """The scope that a request needs (distribution's "Token Scope Documentation"); empty for the ping."""
    # A name with a blank in it is no repository's, and would be read as several scopes.
    if route.repository and route.repository.split() == [route.repository]:
        actions = "pull" if method in READ else "delete" if method == "DELETE" else "pull,push"
        return f"repository:{route.repository}:{actions}"
    return "registry:catalog:*" if route.kind is Kind.CATALOG else ""


def _name(credential: Credential | None) -> str:
    return f"injected {credential.user}" if credential else ANONYMOUS


class Grants:
    """Decides about each request's authorization."""

    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        self._configs: dict[Path, DockerConfig] = {}
        self._learned: TTLCache[str, challenge.Challenge] = TTLCache(_MOST_LEARNED, _LEARNED_SECONDS, timer=clock)

    async def asker(self, registry: Registry, own: str | None, *, secure: bool) -> str:
        """The name under which the verdicts about a request that reads are kept; no token is asked for it.

        Args:
            registry: where it goes.
            own: its own ``Authorization``, if it has one.
            secure: whether it goes over TLS.
        """
        if own is not None:
            return credential_of(own)
        return _name(await self._credential(registry, secure) if registry.auth is Auth.INJECT else None)

    async def holds_credential(self, registry: Registry) -> bool:
        """Whether Pulltap was given a credential for this registry."""
        return await self._credential(registry, secure=True) is not None

    async def grant(
        self, registry: Registry, route: Route, own: str | None, *, secure: bool, method: str = "GET"
    ) -> Grant:
        """The authorization for a request.

        Args:
            registry: where it goes.
            route: what it asks for.
            own: its own ``Authorization``, if it has one.
            secure: whether it goes over TLS; no configured credential goes otherwise.
            method: its method; one that changes the registry only gets a token for a configured credential.

        Raises:
            TokenUnavailable: the token service cannot help now.
        """
        if own is not None:
            return Grant(own, credential_of(own))
        if registry.auth is not Auth.INJECT:
            return NONE
        credential = await self._credential(registry, secure)
        if method not in READ and credential is None:
            return NONE
        return await self._inject(registry, scope_of(route, method), credential)

    async def renew(
        self,
        registry: Registry,
        route: Route,
        refused: Grant,
        challenges: Iterable[str],
        *,
        secure: bool,
        method: str = "GET",
    ) -> Grant | None:
        """Another grant for a request that the registry answered with 401; None where there is none to be had.

        A request that changes the registry gets none, since its body has gone; but what it taught holds for the next.

        Args:
            registry: where it went.
            route: what it asked for.
            refused: the grant it carried.
            challenges: the ``WWW-Authenticate`` lines of the 401.
            secure: whether it went over TLS.
            method: its method.

        Raises:
            TokenUnavailable: the token service cannot help now.
        """
        own = refused.authorization is not None and not refused.injected
        if registry.auth is not Auth.INJECT or refused.renewed or own:
            return None
        self._learn(registry, challenges)
        scope = scope_of(route, method)
        credential = await self._credential(registry, secure)
        realm = self._realm(registry)
        if realm is not None and refused.authorization is not None:
            self._tokens.discard(realm, scope, credential, refused.authorization.removeprefix("Bearer "))
        if method not in READ:
            return None
        again = await self._inject(registry, scope, credential)
        if again.authorization in (None, refused.authorization):
            return None
        return replace(again, renewed=True)

    async def _inject(self, registry: Registry, scope: str, credential: Credential | None) -> Grant:
        name = _name(credential)
        realm = self._realm(registry)
        if realm is None:
            learned = self._learned.get(registry.host)
            if learned is not None and learned.scheme == "basic" and credential and not credential.identity_token:
                return Grant(credential.basic(), name, injected=True)
            # Nothing is known to inject, or nothing is needed. What upstream then says holds for all who bring nothing.
            return Grant(None, name)
        try:
            token = await self._tokens.get(realm, scope, credential)
        except TokenRefused as e:
            # The registry will say 401 itself, with its challenge, which clients understand.
            logger.warning("%s", e)
            return Grant(None, ANONYMOUS, injected=True)
        return Grant(f"Bearer {token}", name, injected=True)

    async def _credential(self, registry: Registry, secure: bool) -> Credential | None:
        if registry.credentials is None or not secure:
            return None
        try:
            return await self._config(registry.credentials).find(registry.host)
        except CredentialError as e:
            # Going on without it is what a registry's public half needs; the log tells why its private half fails.
            logger.warning("%s", e)
            return None

    def _config(self, path: Path) -> DockerConfig:
        if path not in self._configs:
            self._configs[path] = DockerConfig(path, self._clock)
        return self._configs[path]

    def _learn(self, registry: Registry, lines: Iterable[str]) -> None:
        found = challenge.parse(lines)
        # A token goes before a password.
        chosen = challenge.bearer(found) or next((c for c in found if c.scheme == "basic"), None)
        if chosen is not None:
            self._learned[registry.host] = chosen

    def _realm(self, registry: Registry) -> Realm | None:
        if registry.host == DOCKER_HUB.host:
            return _HUB_REALM
        learned = self._learned.get(registry.host)
        if learned is None or learned.scheme != "bearer":
            return None
        realm = Realm(learned.params["realm"], learned.params.get("service", ""))
        try:
            allowed = urlsplit(realm.url).scheme == "https" and realm.host in {registry.host, *registry.realms}
        except ValueError:
            allowed = False
        if not allowed:
            logger.warning(
                "%s names the token service %s, which is not among its realms: no token is asked for there; "
                "if it is to be, add its host to registries.%s.realms",
                registry.host,
                realm.url[:200],
                registry.host,
            )
            return None
        return realm
