"""HTTP/1.1 over TLS in threads: takes requests apart, sends answers, does the faults, keeps the records.

What is asked and answered is plain values (`Request`, `Answer`); a `Listener` speaks for one host name and
asks one function for its answers.
"""

import contextlib
import itertools
import json
import socket
import socketserver
import ssl
import struct
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .faults import Cut, Fault, Faults
from .records import Headers, Record, RequestLog

PIECE = 256 * 1024
_BODYLESS = (204, 304)
_connection_numbers = itertools.count(1)
_NO_FAULT = Fault()


@dataclass(frozen=True)
class Request:
    """One request. `body` can be read once, and yields nothing where there is none."""

    host: str
    method: str
    path: str
    query: str
    headers: Headers
    body: Iterator[bytes]

    def header(self, name: str) -> str | None:
        """The first value of a header, by any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def parameters(self) -> dict[str, list[str]]:
        """The query, taken apart."""
        return urllib.parse.parse_qs(self.query, keep_blank_values=True)


@dataclass(frozen=True)
class Answer:
    """Head and body; `headers` are complete, with Content-Length or Transfer-Encoding."""

    status: int
    headers: Headers
    body: Iterable[bytes] = ()

    @classmethod
    def of(cls, status: int, body: bytes, *headers: tuple[str, str]) -> "Answer":
        """An answer whose body is at hand."""
        return cls(status, (*headers, ("Content-Length", str(len(body)))), (body,))

    @classmethod
    def json(cls, status: int, content: object, *headers: tuple[str, str]) -> "Answer":
        """An answer in JSON."""
        text = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        return cls.of(status, text, ("Content-Type", "application/json"), *headers)

    def header(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@dataclass(frozen=True)
class Shared:
    """What all listeners of a stand-in have in common."""

    log: RequestLog
    faults: Faults
    errors: list[str]
    """What went wrong in the stand-in itself, or in how a test used it."""


class Listener(ThreadingHTTPServer):
    """One host name on a free loopback port."""

    daemon_threads = True
    request_queue_size = 256
    # Not reuse_port: two stand-ins must never share a port.
    allow_reuse_address = True

    def __init__(
        self,
        host: str,
        answer: Callable[[Request], Answer],
        shared: Shared,
        contexts: Mapping[str, ssl.SSLContext],
    ) -> None:
        """Begin to serve; `contexts` says how TLS begins, by the value of `Fault.accept`."""
        super().__init__(("127.0.0.1", 0), _Connection)
        self.host = host
        self.answer = answer
        self.shared = shared
        self._contexts = contexts
        for each in self._contexts.values():
            each.sni_callback = _remember_sni
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name=host, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The loopback port."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        # HTTPServer's own asks for the host's full name, which may ask the network.
        socketserver.TCPServer.server_bind(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: TLS, then requests until the connection ends."""
        fault = self.shared.faults.at_accept(self.host)
        if fault:
            fault.reached.set()
        request.settimeout(60)
        if fault and fault.accept == "reset":
            # mitmproxy stumbles over a peer that is gone before it has asked for its address: let TLS begin first.
            with contextlib.suppress(OSError):
                request.recv(1)
            abort(request)
            return
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            tls = self._contexts[fault.accept if fault else ""].wrap_socket(request, server_side=True)
        except OSError:
            return  # the client does not like the certificate, or went away
        with self._lock:
            self._open.add(tls)
        try:
            tls.settimeout(None)
            _Connection(tls, client_address, self)
            _say_goodbye(tls)
        except OSError:
            pass  # the client went away, as clients do
        finally:
            with self._lock:
                self._open.discard(tls)
            tls.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An error of the stand-in outside of any request: the connection has ended, the test is told."""
        self.shared.errors.append(f"{self.host}: {traceback.format_exc()}")

    def stop(self) -> None:
        """End the listener and all its connections."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            connections = list(self._open)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Connection(BaseHTTPRequestHandler):
    """One TLS connection."""

    server: Listener
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def setup(self) -> None:
        super().setup()
        self.number = next(_connection_numbers)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error: the records tell."""

    def serve(self) -> None:
        """Answer one request."""
        path, _, query = self.path.partition("?")
        headers = tuple((key, value) for key, value in self.headers.items())
        request = Request(self.server.host, self.command, path, query, headers, self._body())
        sni = getattr(self.connection, "asked_for", "")
        record = Record(request.host, request.method, path, query, headers, self.number, sni)
        number = self.server.shared.log.begin(record)
        try:
            self._answer(request, number)
            self._drain(request.body)
        except (Cut, OSError):
            self.close_connection = True
        except Exception as error:
            # Noted here, before the record says that the request is done.
            self.server.shared.errors.append(f"{record}: {traceback.format_exc()}")
            raise ConnectionAbortedError from error
        finally:
            self.server.shared.log.update(number, done=True)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve

    def _answer(self, request: Request, number: int) -> None:
        fault = self.server.shared.faults.at_request(request) or _NO_FAULT
        if fault.hold_headers:
            fault.wait()
        if fault.cut_after == -1:
            self._cut(fault)
        answer = self.server.answer(request) if fault.status is None else Answer.of(fault.status, fault.body)
        headers = _with_faults(answer.headers, fault)
        framing = {key.lower(): value for key, value in headers}
        if framing.get("connection") == "close" or fault.content_length is not None:
            # After a lie about the length, the two sides are at odds about where the next answer begins.
            self.close_connection = True
        elif self.close_connection:
            headers = (*headers, ("Connection", "close"))

        self.server.shared.log.update(number, status=answer.status)
        fault.at_head()
        self.send_response_only(answer.status)
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        if request.method == "HEAD" or answer.status in _BODYLESS:
            return
        try:
            self._send(fault.shape(answer.body), number, chunked=framing.get("transfer-encoding") == "chunked")
        except Cut:
            self._cut(fault)

    def _send(self, body: Iterable[bytes], number: int, *, chunked: bool) -> None:
        for piece in body:
            # Counted before it is sent: whoever has the bytes finds them counted.
            self.server.shared.log.update(number, sent=len(piece))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _cut(self, fault: Fault) -> None:
        fault.reached.set()
        if fault.reset:
            abort(self.connection)
        else:
            # Without TLS's own goodbye, as a dying server or a middlebox does it.
            self.connection.shutdown(socket.SHUT_RDWR)
        raise Cut

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self._line().split(b";")[0], 16):
                yield self._bytes(size)
                self._line()
            while self._line().strip():
                pass  # trailers
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left > 0:
            size = min(left, PIECE)
            yield self._bytes(size)
            left -= size

    def _bytes(self, size: int) -> bytes:
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise ConnectionError("the client went away in the middle of its body")
        return piece

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError("the client went away in the middle of its body")
        return line

    def _drain(self, body: Iterator[bytes]) -> None:
        """Read what the answer had no use for, a little as Go's server does, or else end the connection."""
        read = 0
        for piece in body:
            read += len(piece)
            if read > PIECE:
                self.close_connection = True
                return


def abort(connection: socket.socket) -> None:
    """End a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _with_faults(headers: Headers, fault: Fault) -> Headers:
    gone = {key.lower() for key, _ in fault.headers}
    added = list(fault.headers)
    if fault.content_length is not None:
        gone.add("content-length")
        added.append(("Content-Length", str(fault.content_length)))
    if fault.framing:
        gone |= {"content-length", "transfer-encoding"}
        chunked = fault.framing == "chunked"
        added.append(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close"))
    return (*(pair for pair in headers if pair[0].lower() not in gone), *added)


def _remember_sni(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
    tls.asked_for = name or ""  # type: ignore[union-attr]


def _say_goodbye(tls: ssl.SSLSocket) -> None:
    """Send TLS's close_notify, and do not wait for the peer's."""
    with contextlib.suppress(OSError, ValueError):
        tls.settimeout(0)
        tls.unwrap()
