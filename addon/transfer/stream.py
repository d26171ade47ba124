"""How a body of any size leaves through mitmproxy without being held in memory.

mitmproxy sends a response that an addon made from memory, in one piece. The layers here change that. They lean on its
internals:

- `StreamLayers` turns, in the ``next_layer`` hook, each ``HttpLayer`` that mitmproxy chose into a `BlobHttpLayer`,
  whose streams are `BlobHttpStream`, and each ``ClientTLSLayer`` into a `BulkTLSLayer`;
- an addon that answers a request attaches a `Body` to its response with `attach`;
- a CONNECT whose flow an addon marked with `TUNNEL` becomes a tunnel at once: no byte of it is waited for or looked at;
- `BlobHttpStream.send_response` sends the headers, then turns of up to `TURN` pieces. Between two turns it blocks on a
  hook of our own, ``registry_turn``, whose handler waits until the client has taken what was written, and until there
  is more to send. That is the back-pressure: what lies in memory for one client is one turn. Where it can
  (`addon.transfer.direct`), the handler sends all the rest itself, past the layers.

The life of a response of six pieces that goes through the layers, as commands of the stream::

    << HttpResponseHeadersHook(flow)           the last moment to change the head
    << SendHttp(ResponseHeaders, client)
    << SendHttp(ResponseData, client) x 4
    << RegistryTurnHook(turn)                  the client has taken them, and there is more to read
    << SendHttp(ResponseData, client) x 2
    << HttpResponseHook(flow)                  as for any streamed body: behind it
    << SendHttp(ResponseEndOfMessage, client)

A small body fits the first turn, and costs no hook. A body that breaks ends in ``HttpErrorHook`` and a closed
connection, so that no client takes it for complete.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from mitmproxy import connection, ctx, flow, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import ClientTLSLayer, TCPLayer
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    HttpErrorHook,
    HttpLayer,
    HTTPMode,
    HttpResponseHook,
    HttpStream,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from OpenSSL import SSL

from addon.transfer import kept
from addon.transfer.body import Body, BodyBroken
from addon.transfer.direct import ENCRYPTED, TURN, Direct
from addon.transfer.target import DIRECT
from addon.transfer.upstream import COLLECTED

TUNNEL = "pulltap_tunnel"
"""The key in a CONNECT flow's metadata that marks a tunnel into which nobody looks."""

_bodies: WeakKeyDictionary[http.Response, Body] = WeakKeyDictionary()


def attach(response: http.Response, body: Body) -> None:
    """Let ``body`` follow the headers of ``response``, which an addon is about to put into its flow."""
    _bodies[response] = body


@dataclass
class Turn:
    """What is waited for between two turns, and whether it came."""

    body: Body
    client: connection.Client
    left: Callable[[], str]
    """Says why the body is not wanted any more; empty as long as it is."""
    layers: Sequence[layer.Layer] = ()
    """What stands between the client and the body; empty where the body needs framing."""
    broken: str = ""


@dataclass
class RegistryTurnHook(commands.StartHook):
    """A client has been sent one turn of a body; the next one is wanted."""

    turn: Turn


class BlobHttpStream(HttpStream):
    """An HTTP stream that sends an attached body in turns."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """See `HttpStream._handle_event`; when nothing more is sent, what is left of the flow is what is kept."""
        yield from super()._handle_event(event)
        if self.client_state != self.state_wait_for_request_headers and not self.flow.live:
            kept.over(self.flow)

    def send_response(self, already_streamed: bool = False) -> layer.CommandGenerator[None]:
        """See `HttpStream.send_response`: the response is there, and is to be sent."""
        assert self.flow.response
        body = _bodies.pop(self.flow.response, None)
        if body is None:
            yield from super().send_response(already_streamed)
            return
        try:
            yield from self._send(self.flow.response, body)
        finally:
            body.close()

    def _send(self, response: http.Response, body: Body) -> layer.CommandGenerator[None]:
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=body.ended), self.context.client)
        turn = Turn(body, self.context.client, self._client_left)
        if "content-length" in response.headers:
            turn.layers = self.context.layers
        while True:
            try:
                for _ in range(TURN):
                    if not (piece := body.read()):
                        break
                    yield SendHttp(ResponseData(self.stream_id, piece), self.context.client)
            except OSError as e:
                turn.broken = f"reading the store failed: {e}"
            if body.ended:
                break
            if not turn.broken:
                yield RegistryTurnHook(turn)
            if broken := self._client_left() or turn.broken:
                yield from self._fail(broken)
                return
        response.timestamp_end = time.time()
        yield HttpResponseHook(self.flow)
        self.server_state = self.state_done
        if (yield from self.check_killed(False)):
            return
        if self.client_state == self.state_done:
            yield from self.flow_done()

    def check_invalid(self, request: bool) -> layer.CommandGenerator[bool]:
        """See `HttpStream.check_invalid`, which comes first; later, nobody could tell whom a request was sent to."""
        if request and self.mode is not HTTPMode.transparent and not self.flow.request.host:
            self.flow.metadata[DIRECT] = True
        return (yield from super().check_invalid(request))

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        """See `HttpStream.check_killed`; a body that will not be sent is closed now: the flow may be kept for long."""
        killed = yield from super().check_killed(emit_error_hook)
        if killed and self.flow.response and (body := _bodies.pop(self.flow.response, None)):
            body.close()
        return killed

    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:
        """See `HttpStream.check_body_size`: what is collected was announced to be short, or had no length at all."""
        if len(self.request_body_buf if request else self.response_body_buf) <= COLLECTED:
            return (yield from super().check_body_size(request))
        message = f"more than {COLLECTED} bytes came where a short body was due"
        code = ErrorCode.REQUEST_TOO_LARGE if request else ErrorCode.RESPONSE_TOO_LARGE
        self.flow.error = flow.Error(message)
        yield HttpErrorHook(self.flow)
        yield SendHttp(ResponseProtocolError(self.stream_id, message, code), self.context.client)
        self.client_state = self.state_errored
        if not request:
            yield SendHttp(RequestProtocolError(self.stream_id, message, code), self.context.server)
            self.server_state = self.state_errored
        (self.request_body_buf if request else self.response_body_buf).clear()
        self.flow.live = False
        return True

    def _client_left(self) -> str:
        if self.flow.error and self.flow.error.msg == flow.Error.KILLED_MESSAGE:
            return flow.Error.KILLED_MESSAGE
        return next((e.message for e in self._paused_event_queue if isinstance(e, RequestProtocolError)), "")

    def _fail(self, reason: str) -> layer.CommandGenerator[None]:
        self.flow.error = flow.Error(reason)
        yield HttpErrorHook(self.flow)
        yield SendHttp(ResponseProtocolError(self.stream_id, reason, ErrorCode.CANCEL), self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield DropStream(self.stream_id)

    def handle_connect_regular(self) -> layer.CommandGenerator[None]:
        """See `HttpStream.handle_connect_regular`: the client wants a tunnel, and mitmproxy would look into it."""
        if not self.flow.metadata.get(TUNNEL) or self.flow.response:
            yield from super().handle_connect_regular()  # type: ignore[no-untyped-call]
            return
        if error := (yield commands.OpenConnection(self.context.server)):
            self.flow.response = http.Response.make(502, f"pulltap: cannot reach {self.flow.request.host}: {error}\n")
        self.child_layer = TCPLayer(self.context, ignore=True)
        yield from self.handle_connect_finish()  # type: ignore[no-untyped-call]


class BlobHttpLayer(HttpLayer):
    """An HTTP layer whose streams are ours."""

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        """See `HttpLayer.make_stream`."""
        stream = self.streams[stream_id] = BlobHttpStream(self.context.fork(), stream_id)
        yield from self.event_to_child(stream, events.Start())


class BulkTLSLayer(ClientTLSLayer):
    """Client TLS that hands over what it encrypted in one piece instead of 64 KiB at a time."""

    def tls_interact(self) -> layer.CommandGenerator[None]:
        """See `TLSLayer.tls_interact`."""
        while True:
            try:
                encrypted = self.tls.bio_read(ENCRYPTED)
            except SSL.WantReadError:
                return
            yield commands.SendData(self.conn, encrypted)
            if len(encrypted) < ENCRYPTED:
                return


class StreamLayers:
    """The addon that puts the layers in, and waits between turns."""

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Let mitmproxy choose the layer as always; where that carries HTTP, ours takes its place."""
        builtin = ctx.master.addons.get("nextlayer")
        builtin.next_layer(nextlayer)
        chosen = nextlayer.layer
        while chosen is not None:
            # The subclasses add no state, so that a layer can become one after it was made.
            if type(chosen) is HttpLayer:
                chosen.__class__ = BlobHttpLayer
            elif type(chosen) is ClientTLSLayer:
                chosen.__class__ = BulkTLSLayer
            chosen = getattr(chosen, "child_layer", None)

    async def registry_turn(self, turn: Turn) -> None:
        """Wait until the client has taken what was written, and there is more to send."""
        try:
            handler = ctx.master.addons.get("proxyserver").connections[turn.client.id]
            writer = handler.transports[turn.client].writer
            await writer.drain()
            if turn.layers and (direct := Direct.past(turn.layers, turn.client, writer)):
                await direct.send(turn.body, turn.left)
            else:
                await turn.body.wait()
        except (KeyError, OSError):
            turn.broken = "client disconnected"
        except BodyBroken as e:
            turn.broken = str(e)
