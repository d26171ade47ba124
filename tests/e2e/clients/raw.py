"""A bare HTTP client that shows answers as they came: status, header lines in order, body, cut or whole."""

import http.client
import ssl
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BOUND = 60.0
Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """One answer. `whole` is False where the body ended before its announced end."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool = True

    def header(self, name: str) -> str | None:
        """The first value of a header, by any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def values(self, name: str) -> list[str]:
        """All values of a header, by any case, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def without(self, *names: str) -> "Reply":
        """The same, without headers that differ between any two answers, such as Date."""
        dropped = {name.lower() for name in names}
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in dropped)
        return Reply(self.status, self.reason, kept, self.body, self.whole)


class Stream:
    """An answer of which only the head has been read."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = tuple(response.getheaders())

    def read(self, size: int) -> bytes:
        """That many bytes, or fewer at the end of the body. Raises http.client.IncompleteRead on a cut."""
        return self._response.read(size)

    def rest(self) -> Reply:
        """What is left of it."""
        try:
            body, whole = self._response.read(), True
        except http.client.IncompleteRead as cut:
            body, whole = cut.partial, False
        except OSError:
            # A reset. What came before it is lost to us, as it would be to most clients.
            body, whole = b"", False
        return Reply(self._response.status, self._response.reason, self.headers, body, whole)

    def close(self) -> None:
        """Go away, in the middle or at the end."""
        self._response.close()
        self._connection.close()


class Connection:
    """One connection to one host; several requests may use it, as long as the server keeps it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def open(self, method: str, target: str, headers: Pairs = (), body: bytes | Iterable[bytes] = b"") -> Stream:
        """Send a request, exactly with these headers and Host; a body of several pieces goes out chunked."""
        given = list(headers)
        names = {key.lower() for key, _ in given}
        self._connection.putrequest(method, target, skip_host="host" in names, skip_accept_encoding=True)
        for key, value in given:
            self._connection.putheader(key, value)
        if not isinstance(body, bytes):
            self._connection.putheader("Transfer-Encoding", "chunked")
            self._connection.endheaders()
            for piece in body:
                self._connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            self._connection.send(b"0\r\n\r\n")
        else:
            if body and "content-length" not in names:
                self._connection.putheader("Content-Length", str(len(body)))
            self._connection.endheaders(body or None)
        return Stream(self._connection, self._connection.getresponse())

    def request(self, method: str, target: str, headers: Pairs = (), body: bytes | Iterable[bytes] = b"") -> Reply:
        """Send a request, and read the whole answer."""
        return self.open(method, target, headers, body).rest()


class Raw:
    """Requests through a proxy's CONNECT; each on a connection of its own unless one is opened for several."""

    def __init__(self, port: int, ca: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.set_alpn_protocols(["http/1.1"])

    @staticmethod
    def plain(host: str, port: int) -> Connection:
        """Plain HTTP, without any proxy."""
        return Connection(http.client.HTTPConnection(host, port, timeout=BOUND))

    def connect(self, host: str, port: int = 443) -> Connection:
        """A connection for several requests."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=BOUND, context=self._context)
        connection.set_tunnel(host, port)
        return Connection(connection)

    def open(self, method: str, url: str, headers: Pairs = (), body: bytes | Iterable[bytes] = b"") -> Stream:
        """Send one request, read the head of its answer."""
        parts = urllib.parse.urlsplit(url)
        assert parts.scheme == "https"
        assert parts.hostname
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return self.connect(parts.hostname, parts.port or 443).open(method, target, headers, body)

    def request(self, method: str, url: str, headers: Pairs = (), body: bytes | Iterable[bytes] = b"") -> Reply:
        """Send one request, read the whole answer; redirects are shown, not followed."""
        stream = self.open(method, url, headers, body)
        try:
            return stream.rest()
        finally:
            stream.close()

    def follow(self, method: str, url: str, headers: Pairs = ()) -> Reply:
        """As a pulling client does: redirects followed, without Authorization on another host."""
        reply = self.request(method, url, headers)
        while reply.status in (301, 302, 303, 307, 308):
            target = urllib.parse.urljoin(url, reply.header("Location") or "")
            if urllib.parse.urlsplit(target).netloc != urllib.parse.urlsplit(url).netloc:
                headers = [pair for pair in headers if pair[0].lower() != "authorization"]
            url = target
            reply = self.request(method, url, headers)
        return reply
