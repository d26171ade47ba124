"""The stand-in for Docker Hub, put together.

with Hub() as hub:
    hub.map     # {"registry-1.docker.io:443": "127.0.0.1:4711", …} for remap.py
    hub.ca      # what a client of it must trust
    hub.small   # an image to pull
    hub.count(host=hub.names.cdn)
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from . import images
from .backing import Backing
from .cdn import Cdn
from .certs import Authority
from .faults import Faults
from .images import Blob, Image
from .records import Record, RequestLog
from .registry import Names, PullLimit, Registry
from .tokens import Account, Clock, TokenService
from .wire import Answer, Listener, Request, Shared

KIB = 1024
SMALL = (5 * KIB, 300 * KIB, 40 * KIB, 1024 * KIB, 120 * KIB)


class Hub:
    """A registry, its token service and its CDN, each under its real name on a free loopback port."""

    def __init__(self, names: Names | None = None, authority: Authority | None = None) -> None:
        self.names = names or Names()
        self.folder = Path(tempfile.mkdtemp(prefix="standin-"))
        self.authority = authority or Authority(self.folder / "certificates")
        self.clock = Clock()
        self.faults = Faults()
        self.errors: list[str] = []
        """What went wrong in the stand-in itself, or in how a test used it; tests check that it is empty."""
        self.backing = Backing(self.folder)
        self.tokens = TokenService(self.clock, self.names.service, self.backing.has_repository)
        self._log = RequestLog()
        self._pushed: dict[object, Image] = {}
        cdn = Cdn(self.backing, self.clock)
        self._registry = Registry(self.names, self.backing, self.tokens, cdn)
        shared = Shared(self._log, self.faults, self.errors)
        stranger = Authority(self.folder / "untrusted", "Nobody's authority")

        def listener(host: str, answer: Callable[[Request], Answer]) -> Listener:
            contexts = {
                "": self.authority.server_context(host),
                "untrusted": stranger.server_context(host),
                "misnamed": self.authority.server_context(f"not-{host}"),
                "expired": self.authority.server_context(host, expired=True),
            }
            return Listener(host, answer, shared, contexts)

        self._listeners = [
            listener(self.names.registry, self._registry.answer),
            listener(self.names.auth, self.tokens.answer),
            listener(self.names.cdn, cdn.answer),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything, and leave nothing behind."""
        self.faults.clear()
        for each in self._listeners:
            each.stop()
        self.backing.stop()
        shutil.rmtree(self.folder)

    def reset(self) -> None:
        """As on the first day, but what was pushed stays: no records, faults, accounts, tokens, used-up pulls."""
        self.faults.clear()
        self.tokens.reset()
        self.pull_limit.reset()
        self._registry.blob_mode = "cdn"
        self.errors.clear()
        self.clear()

    # Where it is.

    @property
    def ca(self) -> Path:
        """The certificate authority, PEM."""
        return self.authority.pem

    @property
    def map(self) -> dict[str, str]:
        """Each name with its port, and the loopback address behind it."""
        return {f"{each.host}:443": f"127.0.0.1:{each.port}" for each in self._listeners}

    def url(self, path: str) -> str:
        """Of something at the registry."""
        return f"https://{self.names.registry}{path}"

    # What it was asked.

    @property
    def requests(self) -> list[Record]:
        """All requests so far, also those under way, in the order of arrival."""
        return self._log.snapshot()

    def find(
        self, *, host: str = "", method: str = "", path_contains: str = "", status: int | None = None
    ) -> list[Record]:
        """The requests that fit; an empty argument fits all."""
        return [
            record
            for record in self.requests
            if host in ("", record.host)
            and method in ("", record.method)
            and path_contains in record.path
            and status in (None, record.status)
        ]

    def count(self, *, host: str = "", method: str = "", path_contains: str = "", status: int | None = None) -> int:
        """How many requests fit."""
        return len(self.find(host=host, method=method, path_contains=path_contains, status=status))

    def blob_requests(self) -> list[Record]:
        """Everything that asked for a blob's bytes or existence, at the registry or the CDN."""
        return [
            record
            for record in self.requests
            if record.method in ("GET", "HEAD")
            and (record.host == self.names.cdn or "/blobs/" in record.path)
            and "/blobs/uploads/" not in record.path
        ]

    def token_requests(self) -> list[Record]:
        """Everything that the token service was asked."""
        return self.find(host=self.names.auth)

    def clear(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def wait_for(self, number: int = 1, *, done: bool = False, timeout: float = 30, **fits: str | int) -> None:
        """Block until so many requests that fit (as in `find`) have arrived, or are answered (`done`).

        The timeout (seconds) is a bound. Raises TimeoutError.
        """

        def enough(_: list[Record]) -> bool:
            found = self.find(**fits)  # type: ignore[arg-type]
            return sum(record.done or not done for record in found) >= number

        self._log.wait_for(enough, timeout)

    # How it behaves.

    @property
    def pull_limit(self) -> PullLimit:
        """Docker Hub's limit on manifest GETs."""
        return self._registry.pull_limit

    @property
    def registry(self) -> Registry:
        """For its `blob_mode`."""
        return self._registry

    def add_account(self, name: str, password: str, *repositories: str) -> Account:
        """A login that may pull and push in these repositories, beside pulling what is public."""
        account = Account(name, password, frozenset(repositories))
        self.tokens.accounts[name] = account
        return account

    def make_private(self, *repositories: str) -> None:
        """Only accounts that own them see these from now on."""
        self.tokens.private.update(repositories)

    def revoke_tokens(self) -> None:
        """Void every bearer token given out so far, before its time."""
        self.tokens.revoke()

    def token(self, repository: str, actions: str = "pull", account: str = "") -> str:
        """A valid bearer token, without a request."""
        return self.tokens.issue(account, [f"repository:{repository}:{actions}"])[0]

    def bearer(self, repository: str, actions: str = "pull", account: str = "") -> tuple[str, str]:
        """The same as a header."""
        return "Authorization", f"Bearer {self.token(repository, actions, account)}"

    # What it holds.

    def push(
        self,
        repository: str,
        tag: str = "latest",
        *,
        sizes: tuple[int, ...] = SMALL,
        seed: int = 0,
        index: bool = False,
        docker: bool = False,
        algorithm: str = "sha256",
    ) -> Image:
        """Put an image there, past all tokens and records. Asked for again, it costs nothing. See images.py."""
        key = (repository, tag, sizes, seed, index, docker, algorithm)
        if key not in self._pushed:
            if index:
                image = images.push_index(self.backing, repository, tag, sizes, seed=seed)
            else:
                image = images.push_image(
                    self.backing, repository, tag, sizes, seed=seed, docker=docker, algorithm=algorithm
                )
            self._pushed[key] = image
        return self._pushed[key]

    def push_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> Blob:
        """Put one blob there."""
        return images.push_blob(self.backing, repository, content, algorithm=algorithm)

    @property
    def small(self) -> Image:
        """library/small:latest: an index for two platforms, five layers, 1.5 MB."""
        return self.push("library/small", index=True)

    @property
    def single(self) -> Image:
        """library/single:latest: one manifest in Docker's media types, two layers."""
        return self.push("library/single", sizes=(64 * KIB, 700 * KIB), seed=100, docker=True)

    @property
    def sha512(self) -> Image:
        """library/sha512:latest: its layer is named by a sha512 digest."""
        return self.push("library/sha512", sizes=(64 * KIB,), seed=200, algorithm="sha512")

    def content(self, blob: Blob | str) -> bytes:
        """The bytes of a blob, from the backing registry's disk."""
        digest = blob if isinstance(blob, str) else blob.digest
        if digest.startswith("sha256:"):
            return self.backing.blob_path(digest).read_bytes()
        # distribution keeps such a blob under its sha256, and a link by its own name in the repository.
        links = self.backing.root.glob(f"**/_layers/{digest.replace(':', '/')}/link")
        return self.backing.blob_path(next(links).read_text()).read_bytes()
