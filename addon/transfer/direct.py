"""Past mitmproxy's layers: from a body to the client's socket.

Each piece of a body that goes the usual way passes five layers, is copied by most of them, and is encrypted record by
record. For a large body that is half of all the work. Where all that the layers would do with its bytes is to encrypt
them once, `Direct` does just that: read into one buffer, encrypt into another, send, and wait until the client has
taken it. The layers stay where they are: what they still have to say (an alert, an answer to a key update) goes out
between two pieces, in the order of TLS.

It leans on mitmproxy's layers, and on what pyOpenSSL keeps to itself: its way to encrypt makes a new buffer of each
piece and copies it twice.
"""

import asyncio
from collections.abc import Callable, Sequence

from mitmproxy import connection
from mitmproxy.net import tls
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers import ClientTLSLayer, ServerTLSLayer, modes
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Server
from OpenSSL import SSL

from addon.transfer.body import PIECE, Body, BodyBroken

TURN = 4
"""Pieces between two chances for other clients."""
ENCRYPTED = PIECE + PIECE // 16
"""One piece in bytes, and what TLS adds to its records of 16 KiB."""
_MOST_BUFFERS = 8
_plain = memoryview(bytearray(PIECE))
_buffers: list[bytearray] = []
# Those that hand on what they get, once a connection is set up; HTTP/1 with a Content-Length is one of them.
_PLAIN = (
    modes.HttpProxy,
    modes.TransparentProxy,
    modes.ReverseProxy,
    modes.Socks5Proxy,
    HttpLayer,
    HttpStream,
    ServerTLSLayer,
    ClientTLSLayer,
)


def let_clients_choose_ciphers() -> None:
    """Take the client's first cipher, as web servers do by now, in place of mitmproxy's first one.

    A client knows what its CPU is good at. Those written in Go ask for AES-128-GCM first, which costs less than
    mitmproxy's AES-256-GCM. Connections that began before this have what they have.
    """
    tls.DEFAULT_OPTIONS &= ~SSL.OP_CIPHER_SERVER_PREFERENCE


class Direct:
    """The connection to one client, for one body."""

    def __init__(self, ssl: SSL.Connection | None, writer: asyncio.StreamWriter) -> None:
        self._ssl = ssl
        self._writer = writer

    @classmethod
    def past(cls, layers: Sequence[layer.Layer], client: connection.Client, writer: object) -> "Direct | None":
        """The way past these layers; None where one of them would do more with a body than encrypt it.

        Args:
            layers: those between the client and the stream, outermost first.
            client: the client.
            writer: what mitmproxy sends the client's bytes to.
        """
        if not isinstance(writer, asyncio.StreamWriter) or not all(isinstance(each, _PLAIN) for each in layers):
            return None
        https = [each for each in layers if isinstance(each, HttpLayer)]
        if not all(isinstance(each.connections.get(client), Http1Server) for each in https):
            return None
        match [each for each in layers if isinstance(each, ClientTLSLayer)]:
            case []:
                return cls(None, writer)
            case [only] if only.conn is client:
                return cls(only.tls, writer)
        return None

    async def send(self, body: Body, left: Callable[[], str]) -> None:
        """Send all of a body.

        Args:
            body: the body.
            left: says why nobody wants it any more; empty as long as somebody does.

        Raises:
            BodyBroken: the rest will not come, or is not wanted.
            OSError: the client has gone.
        """
        transport = self._writer.transport
        # A buffer is used again as soon as all of it has gone.
        transport.set_write_buffer_limits(0)
        pieces = 0
        try:
            while not body.ended:
                buffer = _buffers.pop() if _buffers else bytearray(ENCRYPTED)
                if not (size := self._fill(buffer, body)):
                    _buffers.append(buffer)
                    await body.wait()
                    continue
                if transport.is_closing():
                    raise ConnectionResetError
                self._writer.write(memoryview(buffer)[:size])
                await self._writer.drain()
                if len(_buffers) < _MOST_BUFFERS:
                    _buffers.append(buffer)
                pieces += 1
                if pieces % TURN == 0:
                    # A socket that takes all at once would keep everybody else waiting.
                    await asyncio.sleep(0)
                    if reason := left():
                        raise BodyBroken(reason)
        finally:
            transport.set_write_buffer_limits()

    def _fill(self, buffer: bytearray, body: Body) -> int:
        """Read the next piece, as the client is to get it; returns how many bytes that makes."""
        try:
            if self._ssl is None:
                return body.read_into(memoryview(buffer)[:PIECE])
            count = body.read_into(_plain)
        except OSError as e:
            raise BodyBroken(f"reading the store failed: {e}") from e
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]
        lib.SSL_clear_mode(self._ssl._ssl, lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        if not count:
            return 0
        if lib.SSL_write(self._ssl._ssl, ffi.from_buffer(_plain), count) != count:
            # Why is told to nobody, and nobody else is to find it there.
            lib.ERR_clear_error()
            raise ConnectionResetError
        return int(lib.BIO_read(self._ssl._from_ssl, ffi.from_buffer(buffer), ENCRYPTED))
