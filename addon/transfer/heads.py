"""No head without end.

mitmproxy collects a message's head, the length of a chunk, and trailers until they are whole, however long they become:
an upstream, or a client, could fill the memory with one header. `bound_heads` lets it collect so many bytes and no
more. It leans on `mitmproxy.proxy.layers.http._http1.Http1Connection`, which keeps in its `buf` what it cannot make
sense of yet.
"""

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import ErrorCode, ReceiveHttp, RequestProtocolError, ResponseProtocolError
from mitmproxy.proxy.layers.http._http1 import Http1Connection, Http1Server, make_error_response

LONGEST = 1024 * 1024
"""Bytes, as much as Go's server takes."""

_unbounded = Http1Connection._handle_event


def bound_heads() -> None:
    """Bound all heads, of clients and of upstreams, from now on."""
    Http1Connection._handle_event = _bounded  # type: ignore[method-assign]


def unbound_heads() -> None:
    """Let mitmproxy's own method work again."""
    Http1Connection._handle_event = _unbounded  # type: ignore[method-assign]


def _bounded(self: Http1Connection, event: events.Event) -> layer.CommandGenerator[None]:
    yield from _unbounded(self, event)
    if not isinstance(event, events.DataReceived) or len(self.buf) <= LONGEST:
        return
    message = f"more than {LONGEST} bytes came where a head, or the length of a chunk, was due"
    self.buf = ReceiveBuffer()
    self.state = self.done
    if isinstance(self, Http1Server):
        if self.request is None:
            yield commands.SendData(self.conn, make_error_response(431, message))
        yield commands.CloseConnection(self.conn)
        if self.request is not None:
            yield ReceiveHttp(RequestProtocolError(self.stream_id, message, ErrorCode.GENERIC_CLIENT_ERROR))
        return
    yield commands.CloseConnection(self.conn)
    if self.stream_id is not None:
        yield ReceiveHttp(ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))
