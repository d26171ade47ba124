"""An upstream on a loopback port, which answers as the test says."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ..doubles import BOUND

Serve = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request, of which it gets the head; the connection is closed behind it."""


class Origin:
    """What it was asked, and whether its clients are still there."""

    def __init__(self, serve: Serve, *, tls: bool = False) -> None:
        self.heads: list[str] = []
        """The heads of the requests, with their lines ended as Python likes them."""
        self.asked = asyncio.Event()
        self.port = 0
        self.gone = asyncio.Event()
        """A client has closed its connection."""
        self.left = asyncio.Event()
        """A connection is over, whatever it was for."""
        self._serve = serve
        self._tls = tls
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").replace("\r\n", "\n")
                self.heads.append(head)
                self.asked.set()
                watch = asyncio.create_task(self._watch(reader))
                try:
                    await self._serve(head, writer)
                finally:
                    watch.cancel()
                    await asyncio.wait([watch])
        finally:
            self._connections.discard(task)
            self.left.set()
            writer.transport.abort() if writer.is_closing() else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        self.gone.set()

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=BOUND)


@asynccontextmanager
async def origin(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """An origin for as long as the context lasts."""
    made = Origin(serve, tls=tls is not None)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()


def answer(status: str = "200 OK", content: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """An answer as bytes; `length` is what it announces, where that is not the truth."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content) if length is None else length}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def always(raw: bytes) -> Serve:
    """Answers every request with these bytes."""

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return serve


async def forever(writer: asyncio.StreamWriter) -> None:
    """Send what was written, and nothing more, until somebody ends the connection."""
    await writer.drain()
    await asyncio.Event().wait()
