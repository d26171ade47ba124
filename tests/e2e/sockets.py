r"""Bare sockets at both ends of a proxy, for what shows only byte by byte: who says what, and when.

def serve(peer: Peer) -> None:
    peer.head()
    peer.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok")

with Server(serve) as server, dial(proxy.port) as client:
    client.send(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\n\r\n" % server.port)
    assert client.head().startswith(b"HTTP/1.1 200 Fine\r\n")
"""

import contextlib
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

BOUND = 30.0
"""Seconds after which a read that gets nothing is an error."""


class Peer:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(BOUND)
        self._socket = connection
        self._input = connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """That many bytes, or fewer where the other side ends."""
        return self._input.read(size)

    def rest(self) -> bytes:
        """All until the other side ends."""
        return self._input.read()

    def head(self) -> bytes:
        """A start line and its headers, with the empty line; or less where the other side ends."""
        lines = []
        while (line := self._input.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join([*lines, line])

    def chunk(self) -> bytes:
        """One chunk of a chunked body; empty for the last."""
        size = int(self._input.readline(), 16)
        content = self.read(size)
        assert self._input.readline() == b"\r\n"
        return content

    def message(self, *, empty: bool = False) -> tuple[bytes, bytes]:
        """Head and body, whatever frames it; `empty` is for an answer without a body, whatever its head says."""
        head = self.head()
        length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        if empty:
            return head, b""
        if re.search(rb"(?im)^transfer-encoding:\s*chunked", head):
            chunks = []
            while chunk := self.chunk():
                chunks.append(chunk)
            return head, b"".join(chunks)
        if length:
            return head, self.read(int(length[1]))
        return head, self.rest() if head.startswith(b"HTTP/") else b""

    def certificate(self) -> bytes:
        """What the other side presented, DER."""
        assert isinstance(self._socket, ssl.SSLSocket)
        return self._socket.getpeercert(binary_form=True) or b""

    def end(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection, whoever still reads or writes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._input.close()
        self._socket.close()


class Server:
    """Hands each connection to `serve`, in a thread of its own, and closes it afterwards."""

    def __init__(self, serve: Callable[[Peer], None], context: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[str] = []
        self._ending = False

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there were so far."""
        return len(self._peers)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in list(self._peers):
            peer.close()
        for thread in self._threads:
            thread.join(BOUND)
        if error is None:
            assert not self._errors, "\n".join(self._errors)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._talk, connection)

    def _talk(self, connection: socket.socket) -> None:
        try:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            peer = Peer(connection)
            self._peers.append(peer)
            with peer:
                self._serve(peer)
        except Exception:  # noqa: BLE001 -- whatever it is, __exit__ tells the test
            if not self._ending:
                self._errors.append(traceback.format_exc())


def dial(port: int) -> Peer:
    """Connect to a loopback port."""
    return Peer(socket.create_connection(("127.0.0.1", port), BOUND))


def tunnel(port: int, target: str, ca: object = None, *, sni: str = "") -> Peer:
    """Connect to `host:port` through the proxy at `port`; by TLS where `ca`, a PEM file, is given."""
    connection = socket.create_connection(("127.0.0.1", port), BOUND)
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = b""
    # Byte by byte: what follows belongs to somebody else.
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, answer
        answer += byte
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    if ca is None:
        return Peer(connection)
    context = ssl.create_default_context(cafile=str(ca))
    return Peer(context.wrap_socket(connection, server_hostname=sni or target.rpartition(":")[0]))
