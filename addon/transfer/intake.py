"""Past mitmproxy's layers: from upstream's socket to a receiver.

A body that comes the usual way is read 64 KiB at a time, and copied some ten times on its way through asyncio, TLS and
the layers, before it is received. Where the layers would do no more with it than decrypt it and count its bytes,
`Intake` does that in their place: it puts itself between the socket and mitmproxy's reader, decrypts into the
receiver's own buffers, and counts. The head of the answer was mitmproxy's, and so is the last byte of the body: its
layers then see a body that ends as it should, and go on from there. Whatever else happens (the connection breaks, TLS
says good-bye or makes no sense) ends the intake, and is theirs to find.

It leans on mitmproxy's layers, and on what pyOpenSSL and h11 keep to themselves.
"""

import asyncio
import contextlib
from typing import Any, Protocol

from h11._readers import ContentLengthReader
from mitmproxy import connection
from mitmproxy.proxy.layers import ServerTLSLayer
from mitmproxy.proxy.layers.http import HttpClient, HttpLayer
from mitmproxy.proxy.layers.http._http1 import Http1Client
from OpenSSL import SSL

WORTH = 1 << 20
"""Bytes that are to be left of a body, for the change to be worth it."""
_READ = 256 * 1024
_ALL = 1 << 30
# Of all intakes: what is in it is taken out before the event loop goes on.
_incoming = memoryview(bytearray(_READ))


class Basin(Protocol):
    """Where an intake puts what it decrypts."""

    def room(self) -> memoryview | None:
        """Where the next bytes may be put; None where no more are welcome just now."""

    def put(self, count: int) -> None:
        """So many bytes were put where `room` said."""

    async def ready(self) -> None:
        """Return when there is room again."""


class Intake:
    """The reading of one body."""

    def __init__(
        self,
        ssl: SSL.Connection,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        counter: ContentLengthReader,
        basin: Basin,
    ) -> None:
        self._ssl = ssl
        self._reader = reader
        self._transport = transport
        self._counter = counter
        self._basin = basin
        self._over = False
        self._full = False
        self._wake = asyncio.Event()

    @classmethod
    def past(
        cls,
        http: HttpLayer,
        server: connection.Connection,
        streams: tuple[object, object],
        basin: Basin,
    ) -> "Intake | None":
        """The way past the layers, in the midst of a body; None where there is none.

        Args:
            http: the outermost layer.
            server: whose body it is.
            streams: mitmproxy's reader and writer for that connection.
            basin: who receives the body.
        """
        reader, writer = streams
        tls = http.connections.get(server)
        if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
            return None
        if not isinstance(tls, ServerTLSLayer) or not isinstance(tls.child_layer, HttpClient):
            return None
        client = tls.child_layer.child_layer
        if not isinstance(client, Http1Client) or client.state != client.read_body or client.buf:
            return None
        counter = client.body_reader
        if not isinstance(counter, ContentLengthReader) or counter._remaining < WORTH:
            return None
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        return cls(tls.tls, reader, transport, counter, basin)

    async def run(self) -> None:
        """Read all but the last byte, or as much as comes."""
        try:
            # All that the reader has: it is empty until the event loop goes on.
            data = await self._reader.read(_ALL)
        except OSError:
            # Reset while nobody read. The reader says so again, to mitmproxy, which waits for it there.
            return
        if self._reader.at_eof():
            # Cut while nobody read: the transport has nothing more to tell.
            if data:
                self.take(memoryview(data))
            return
        usual = self._transport.get_protocol()
        self._transport.set_protocol(_Diverted(self, usual))
        try:
            self.take(memoryview(data))
            while not self._over:
                await self._wake.wait()
                self._wake.clear()
                if self._full:
                    await self._basin.ready()
                    self._full = False
                    self._pour()
                    if not self._full:
                        self._transport.resume_reading()
        finally:
            self._transport.set_protocol(usual)
            self._transport.resume_reading()

    def take(self, encrypted: memoryview) -> None:
        """Take what came from the socket."""
        self._ssl.bio_write(encrypted)
        self._pour()

    def end(self) -> None:
        """Nothing more is for the intake; the layers take over."""
        self._over = True
        self._wake.set()

    def _pour(self) -> None:
        """Decrypt what there is, as far as there is room for it."""
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]
        while not self._over:
            if (room := self._basin.room()) is None:
                self._full = True
                self._transport.pause_reading()
                self._wake.set()
                break
            buffer, length, filled = ffi.from_buffer(room), min(len(room), self._counter._remaining - 1), 0
            # OpenSSL before 4 would take what another connection left there for this one's.
            lib.ERR_clear_error()
            count = 1
            while count > 0 and filled < length:
                # At most one record of TLS comes at a time.
                count = lib.SSL_read(self._ssl._ssl, buffer + filled, length - filled)
                filled += max(count, 0)
            more = count > 0 or lib.SSL_get_error(self._ssl._ssl, count) == lib.SSL_ERROR_WANT_READ
            self._counter._remaining -= filled
            if filled:
                self._basin.put(filled)
            if not more or self._counter._remaining <= 1:
                self.end()
            if count <= 0:
                break
        self._say()

    def _say(self) -> None:
        """Send what TLS has to say, such as its part of a change of keys."""
        with contextlib.suppress(SSL.WantReadError):
            self._transport.write(self._ssl.bio_read(_READ))


class _Diverted(asyncio.BufferedProtocol):
    """Stands in for mitmproxy's end of the transport."""

    def __init__(self, intake: Intake, usual: Any) -> None:
        self._intake = intake
        self._usual = usual

    def get_buffer(self, _sizehint: int) -> memoryview:
        return _incoming

    def buffer_updated(self, count: int) -> None:
        self._intake.take(_incoming[:count])

    def eof_received(self) -> bool | None:
        self._intake.end()
        stay: bool | None = self._usual.eof_received()
        return stay

    def connection_lost(self, exc: Exception | None) -> None:
        self._intake.end()
        self._usual.connection_lost(exc)

    def pause_writing(self) -> None:
        self._usual.pause_writing()

    def resume_writing(self) -> None:
        self._usual.resume_writing()
