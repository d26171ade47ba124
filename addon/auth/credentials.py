"""Credentials out of Docker's ``config.json``.

Source: Docker CLI, "Credential stores" and "Credential helpers" of ``docker login``: a helper named in ``credHelpers``
for this registry goes before ``credsStore``, which goes before the entry in ``auths``. The helpers' protocol
(docker-credential-helpers): ``docker-credential-NAME get``, the server's address on standard input, JSON with
``Username`` and ``Secret`` on standard output; a Username of ``<token>`` marks the Secret as an identity token.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachetools import TTLCache

from addon.auth.shared import Shared

DOCKER_HUB = "https://index.docker.io/v1/"
"""The address under which Docker has kept its Hub credentials since the first registry protocol."""

_HUB_HOSTS = {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
_IDENTITY_TOKEN_USER = "<token>"
# A helper may ask a key ring, which may ask a person; nobody waits longer for a layer.
_HELPER_SECONDS = 30
# What a helper says when it has no credential for a server; any other failure is one.
_NOT_FOUND = b"credentials not found"
# A helper is asked again after so many seconds, or once the file has changed.
_ANSWER_SECONDS = 300
_MOST_ANSWERS = 1024


class CredentialError(Exception):
    """The configured credentials cannot be had; the message names the file or the helper, and never a secret."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user with a password, or an identity token (an OAuth2 refresh token) in its place."""

    user: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header by RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class DockerConfig:
    """One ``config.json``, read anew whenever it changes, so that a ``docker login`` needs no restart."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._read_at: tuple[int, int] | None = None
        self._content: dict[str, Any] = {}
        self._answers: TTLCache[tuple[str, str], Credential | None] = TTLCache(
            _MOST_ANSWERS, _ANSWER_SECONDS, timer=clock
        )
        self._questions = Shared(self._ask)

    def check(self) -> None:
        """Read the file.

        Raises:
            CredentialError: it is missing, not JSON, or not of Docker's form.
        """
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._read_at:
                return
            content = json.loads(self.path.read_text("utf-8"))
        except OSError as e:
            raise CredentialError(f"cannot read {self.path}: {e.strerror}") from None
        except ValueError as e:
            raise CredentialError(f"{self.path} is not JSON: {e}") from None
        if not isinstance(content, dict):
            raise CredentialError(f"{self.path} is no Docker config: it is to be a mapping")
        # To Docker, null is as good as nothing.
        content = {key: value for key, value in content.items() if value is not None}
        for key in ("auths", "credHelpers"):
            if not isinstance(content.get(key, {}), dict):
                raise CredentialError(f"{self.path} is no Docker config: {key} is to be a mapping")
        self._content, self._read_at = content, stamp
        self._answers.clear()

    async def find(self, host: str) -> Credential | None:
        """The credential for a registry (``host`` or ``host:port``); None where the file has none.

        Raises:
            CredentialError: the file cannot be read, or its helper failed.
        """
        self.check()
        helper = self._helper(host)
        if not helper:
            return _decode(self.path, host, self._entry(host))
        key = (helper, _address(host))
        try:
            return self._answers[key]
        except KeyError:
            return await self._questions.answer(key)

    def _helper(self, host: str) -> str:
        for address, helper in self._content.get("credHelpers", {}).items():
            if _same(address, host):
                return str(helper)
        return str(self._content.get("credsStore") or "")

    def _entry(self, host: str) -> dict[str, Any]:
        entries: dict[str, dict[str, Any]] = {
            address: entry
            for address, entry in self._content.get("auths", {}).items()
            if _same(address, host) and isinstance(entry, dict) and entry
        }
        # The registry's own key goes before another on its host, such as the ".../access-token" of Docker Desktop.
        return entries.get(_address(host)) or next(iter(entries.values()), {})

    async def _ask(self, key: tuple[str, str]) -> Credential | None:
        helper, address = key
        program = f"docker-credential-{helper}"
        if "/" in helper:
            raise CredentialError(f"{self.path}: {helper!r} is no name of a credential helper")
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as e:
            raise CredentialError(f"cannot run {program}, which {self.path} names: {e.strerror}") from None
        try:
            async with asyncio.timeout(_HELPER_SECONDS):
                output, _ = await process.communicate(address.encode())
        except BaseException as e:
            # With all that it has started: many a helper is a script, and what it waits for holds its output open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if not isinstance(e, TimeoutError):
                raise
            raise CredentialError(f"{program} gave no answer within {_HELPER_SECONDS} s") from None
        if process.returncode == 0:
            found = _answered(program, output)
        elif _NOT_FOUND in output:
            found = None
        else:
            raise CredentialError(f"{program} failed for {address} (exit status {process.returncode})")
        self._answers[key] = found
        return found


def _answered(program: str, output: bytes) -> Credential | None:
    try:
        answer = json.loads(output)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise CredentialError(f"{program} gave an answer that is not of the helpers' protocol") from None
    if user == _IDENTITY_TOKEN_USER:
        return Credential(user, identity_token=secret)
    return Credential(user, secret) if user else None


def _decode(path: Path, host: str, entry: dict[str, Any]) -> Credential | None:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if auth := entry.get("auth"):
        try:
            user, password = base64.b64decode(str(auth), validate=True).decode().split(":", 1)
        except ValueError:
            raise CredentialError(f"{path}: the auth entry for {host} is not base64 of user:password") from None
    token = str(entry.get("identitytoken") or "")
    return Credential(user, password.rstrip("\0"), token) if user or token else None


def _address(host: str) -> str:
    return DOCKER_HUB if host in _HUB_HOSTS else host


def _same(address: str, host: str) -> bool:
    """Whether a key of the file (``host``, ``https://host``, ``https://host/v1/``) means this registry."""
    named = address.partition("://")[2] or address
    named = named.partition("/")[0].lower().removesuffix(":443")
    return named == host or (named in _HUB_HOSTS and host in _HUB_HOSTS)
