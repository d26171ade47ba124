"""An upstream within the process: a registry with its token service, whose answers come at once."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from addon import parts as module
from addon.parts import Parts
from addon.registry.digest import Digest
from addon.transfer.upstream import UpstreamError

from .doubles import HUB, Clock, FakeUpstream, Question, digest_of, settings

CHALLENGE = 'Bearer realm="https://{host}/token",service="{host}",scope="repository:{repository}:pull"'


@dataclass
class Hub:
    """Registries and their token services; each credential is the text behind ``Bearer``."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """Contents by repository and digest; the same in every registry."""
    private: dict[str, set[str]] = field(default_factory=dict)
    """Who may pull a repository that not everybody may pull."""
    log: list[str] = field(default_factory=list)
    """What was asked, and by whom."""
    token: str = "anonymous"
    """What the token services give to everybody."""
    failing: int = 0
    """With which status registries fail, if they do."""
    head_status: int = 0
    """With which status registries answer every HEAD, if not as they should."""
    token_status: int = 200
    coding: str = ""
    hostile: bool = False
    """Whether every HEAD is answered with 200."""
    refused: dict[str, int] = field(default_factory=dict)
    """With which status a tag, or a digest, is refused, if it is."""

    def push(self, repository: str, content: bytes) -> Digest:
        digest = digest_of(content)
        self.blobs[repository, str(digest)] = content
        return digest

    def tag(self, repository: str, tag: str, manifest: bytes) -> Digest:
        """Push a manifest, or an index, and let the tag be its name."""
        self.blobs[repository, tag] = manifest
        return self.push(repository, manifest)

    def asked(self) -> list[str]:
        """What was asked since the last time."""
        log, self.log = self.log, []
        return log

    def reply(self, question: Question) -> None:
        """Answer; see `FakeUpstream.reply`."""
        request = question.request
        if request.path.startswith("/token"):
            account = "" if "authorization" not in request.headers else "with a password "
            self.log.append(f"token {account}from {request.host}")
            token = self.token + ("-of-the-account" if account else "")
            question.answer(
                self.token_status, json.dumps({"token": token, "expires_in": 300}).encode(), Retry_After="7"
            )
            return
        who = request.headers.get("authorization", "Bearer nobody").removeprefix("Bearer ")
        path, _, _ = request.path.removeprefix("/v2/").partition("?")
        repository, _, reference = path.rpartition("/blobs/" if "/blobs/" in path else "/manifests/")
        bytes_asked = request.headers.get("range", "").removeprefix("bytes=")
        self.log.append(
            " ".join(filter(None, [request.method, f"{request.host}/{repository}", bytes_asked, "as", who]))
        )
        if self.failing:
            question.fail(UpstreamError("no route to host", self.failing))
        elif request.method == "HEAD" and self.head_status:
            question.answer(self.head_status, Retry_After="7")
        elif who not in self.private.get(repository, {who}) or (who == "nobody" and request.host != "open.example"):
            challenge = CHALLENGE.format(host=request.host, repository=repository)
            question.answer(401, b'{"errors":[]}', WWW_Authenticate=challenge)
        elif request.method == "HEAD" and self.hostile:
            question.answer(200)
        elif reference in self.refused:
            question.answer(self.refused[reference], b'{"errors":[]}', Retry_After="7")
        elif (repository, reference) not in self.blobs:
            question.answer(404, b'{"errors":[]}')
        else:
            content = self.blobs[repository, reference] if request.method == "GET" else b""
            more = {"Content_Encoding": self.coding} if self.coding else {}
            question.answer(200, content, Content_Length=str(len(content)), **more)


def parts_with(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock | None = None, **changes: object
) -> Parts:
    """The parts of a proxy whose upstream is this hub."""
    monkeypatch.setattr(module, "Upstream", lambda: FakeUpstream(hub.reply))
    usual: dict[str, object] = {"hosts": [HUB, "ghcr.io", "open.example"], "store": str(root)}
    return Parts(settings(**{**usual, **changes}), clock or Clock())
