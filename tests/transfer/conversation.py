"""A layer's side of a conversation, written down: what it is told (``>>``) and what it commands (``<<``)."""

from collections.abc import Callable

from mitmproxy import connection, ctx, http
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import tflow

from addon.transfer.stream import BlobHttpLayer

GET = b"GET http://registry.example/blob HTTP/1.1\r\nHost: registry.example\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
CONNECT = b"CONNECT mail.example:25 HTTP/1.1\r\nHost: mail.example:25\r\n\r\n"

Answer = Callable[[http.HTTPFlow], None]


class Conversation:
    """An HTTP client on its connection, whose requests `answer` answers, as an addon would.

    A hook is replied to at once, as soon as the layer has said all it had to say, but for those named in `held`.
    """

    def __init__(
        self, answer: Answer, *held: str, kind: type[BlobHttpLayer] | type[layer.Layer] = BlobHttpLayer
    ) -> None:
        self.client = tflow.tclient_conn()
        self.client.state = connection.ConnectionState.OPEN
        self.lines: list[str] = []
        self.received = bytearray()
        """What the client has got."""
        self.flows: list[http.HTTPFlow] = []
        self.held: dict[str, commands.StartHook] = {}
        self.server: connection.Server | None = None
        """The last server to which a connection was opened."""
        self.unreachable = ""
        """Why no server can be reached; empty where one can."""
        self._hold = held
        self._answer = answer
        self._layer = kind(context.Context(self.client, ctx.options), HTTPMode.regular)  # type: ignore[call-arg]
        self._tell(events.Start())

    def sends(self, data: bytes) -> "Conversation":
        """The client sends something."""
        self.lines.append(f">> {data.split(b' HTTP/1')[0].decode()}")
        self._tell(events.DataReceived(self.client, data))
        return self

    def hears(self, data: bytes) -> "Conversation":
        """The server sends something."""
        assert self.server
        self.lines.append(f">> server: {data!r}")
        self._tell(events.DataReceived(self.server, data))
        return self

    def leaves(self) -> "Conversation":
        """The client closes its connection."""
        self.lines.append(">> client closed")
        self.client.state &= ~connection.ConnectionState.CAN_READ
        self._tell(events.ConnectionClosed(self.client))
        return self

    def releases(self, name: str) -> "Conversation":
        """A held hook is replied to."""
        self.lines.append(f">> {name} done")
        self._tell(events.HookCompleted(self.held.pop(name)))
        return self

    def _tell(self, event: events.Event) -> None:
        told = [event]
        while told:
            for command in self._layer.handle_event(told.pop(0)):
                if isinstance(command, commands.StartHook):
                    told += self._hook(command)
                elif isinstance(command, commands.OpenConnection):
                    told.append(self._open(command))
                else:
                    self._do(command)

    def _hook(self, hook: commands.StartHook) -> list[events.Event]:
        self.lines.append(f"<< {hook.name}")
        (subject,) = hook.args()
        if isinstance(subject, http.HTTPFlow) and subject not in self.flows:
            self.flows.append(subject)
        if hook.name in ("request", "http_connect"):
            self._answer(subject)
        if hook.name == "error":
            self.lines[-1] += f": {subject.error.msg}"
        if hook.name in self._hold:
            self.held[hook.name] = hook
            return []
        return [events.HookCompleted(hook)]

    def _open(self, command: commands.OpenConnection) -> events.Event:
        assert isinstance(command.connection, connection.Server)
        assert command.connection.address
        self.server = command.connection
        self.lines.append("<< open {}:{}".format(*command.connection.address))
        if not self.unreachable:
            self.server.state, self.server.timestamp_start = connection.ConnectionState.OPEN, 1
        return events.OpenConnectionCompleted(command, self.unreachable or None)

    def _do(self, command: commands.Command) -> None:
        match command:
            case commands.SendData() if command.connection is self.server:
                self.lines.append(f"<< send to the server {command.data!r}")
            case commands.SendData():
                assert command.connection is self.client
                self.received += command.data
                shown = command.data.splitlines()[0] if command.data.startswith(b"HTTP/1.1 ") else command.data
                self.lines.append(f"<< send {shown.decode()!r}")
            case commands.CloseConnection() if command.connection is self.server:
                self.server.state = connection.ConnectionState.CLOSED
                self.lines.append("<< close the server")
            case commands.CloseConnection():
                assert command.connection is self.client
                self.client.state = connection.ConnectionState.CLOSED
                self.lines.append("<< close")
            case commands.Log():
                pass
            case _:
                self.lines.append(f"<< {type(command).__name__}")
