"""The real distribution registry (Debian's `docker-registry`), on plain HTTP and a free loopback port."""

import http.client
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .faults import Cut
from .wire import PIECE, Answer, Request

_NOT_FORWARDED = ("connection", "keep-alive", "proxy-connection", "te", "upgrade", "authorization")
_CONFIG = """\
version: 0.1
log: {{level: info, formatter: json, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{root}"}}
  delete: {{enabled: true}}
http:
  addr: "127.0.0.1:0"
  secret: not-a-secret
"""


class RegistryMissing(Exception):
    """The distribution registry is not installed."""


class Backing:
    """The process, and requests to it."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("docker-registry")
        if not program:
            raise RegistryMissing("docker-registry (the distribution registry) is not installed")
        self.root = folder / "registry"
        self.root.mkdir(parents=True)
        config = folder / "registry.yml"
        config.write_text(_CONFIG.format(root=self.root))
        self._process = subprocess.Popen(
            [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr
        self.port = _listening_port(self._process.stderr)
        # Read on, or the registry blocks once the pipe is full.
        self._reader = threading.Thread(target=_read_on, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)
        self._reader.join(30)

    def blob_path(self, digest: str) -> Path:
        """Where the bytes of a sha256 digest lie."""
        algorithm, _, digits = digest.partition(":")
        return self.root / "docker/registry/v2/blobs" / algorithm / digits[:2] / digits / "data"

    def has_repository(self, name: str) -> bool:
        """Whether anything was ever pushed there."""
        return (self.root / "docker/registry/v2/repositories" / name).is_dir()

    def forward(self, request: Request) -> Answer:
        """Ask the registry the same thing, without the credential; the answer is as it came, and streams."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        target = f"{request.path}?{request.query}" if request.query else request.path
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        chunked = False
        for key, value in request.headers:
            if key.lower() not in _NOT_FORWARDED:
                connection.putheader(key, value)
            chunked |= key.lower() == "transfer-encoding"
        # So that upload Locations are those that the client can use.
        connection.putheader("X-Forwarded-Proto", "https")
        connection.endheaders()
        for piece in request.body:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.send(b"0\r\n\r\n")
        response = connection.getresponse()
        headers = [pair for pair in response.getheaders() if pair[0].lower() != "connection"]
        return Answer(response.status, tuple(headers), _body(connection, response))

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request of the tests' own, past all tokens: status, headers (lower case), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, path, body=body or None, headers=headers or {})
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()


def _body(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read1(PIECE):
            yield piece
        if response.length:
            # distribution tells the blob's length in a 416 as well, and then closes the connection.
            raise Cut
    finally:
        connection.close()


def _listening_port(log: IO[str]) -> int:
    seen = ""
    for line in log:
        seen += line
        if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise RuntimeError(f"the registry did not start:\n{seen}")


def _read_on(log: IO[str]) -> None:
    for _ in log:
        pass
