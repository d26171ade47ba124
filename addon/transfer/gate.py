"""Which clients are let in (option ``registry_clients``).

Who is not is refused before anything it sends is read as a request: a client of a proxy that was named to it gets a 403
and a closed connection, whatever it asked for (a tunnel, a page of the proxy's own, a registry); one whose traffic was
redirected, or who speaks TLS, could not read that, and finds its connection closed.

mitmproxy's own `block_global`, `block_private` and `proxyauth` work beside this.
"""

import logging

from cachetools import TTLCache
from mitmproxy import connection
from mitmproxy.proxy import commands, events, layer, mode_specs

from addon.settings import Settings, address

logger = logging.getLogger(__name__)

_ASKED = (mode_specs.RegularMode, mode_specs.UpstreamMode)
_TLS_HANDSHAKE = b"\x16"
_TEXT = b"pulltap: this client is not in registry_clients\n"
_ANSWER = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TEXT), _TEXT)
)
_QUIET_SECONDS = 10 * 60
_MOST_KNOWN = 1000


class RefusedLayer(layer.Layer):
    """Answers whatever a client says first with 403, and closes; TLS is closed without a word."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self.context.client.state is connection.ConnectionState.CLOSED:
            # It may have sent more by then.
            return
        if isinstance(event, events.DataReceived) and not event.data.startswith(_TLS_HANDSHAKE):
            yield commands.SendData(self.context.client, _ANSWER)
        if not isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


class Gate:
    """The addon that refuses clients. Is to be the first: others may answer or tunnel at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told: TTLCache[str, bool] = TTLCache(_MOST_KNOWN, _QUIET_SECONDS)

    def client_connected(self, client: connection.Client) -> None:
        """Close the connection of one who could not read an answer (mitmproxy's hook for a new client)."""
        if self._refuses(client):
            host = client.peername[0]
            if host not in self._told:
                # Not for each connection: whoever wants could fill the disk.
                self._told[host] = True
                logger.warning("%s is refused: it is not in registry_clients", host)
            if not isinstance(client.proxy_mode, _ASKED):
                client.error = "Connection killed by registry_clients."

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Refuse in the place of speaking HTTP."""
        if self._refuses(nextlayer.context.client):
            nextlayer.layer = RefusedLayer(nextlayer.context)

    def _refuses(self, client: connection.Client) -> bool:
        if not self._settings.clients or isinstance(client.proxy_mode, mode_specs.LocalMode):
            # In local mode, all clients are programs of this machine.
            return False
        try:
            host = address(client.peername[0])
        except ValueError:
            return True
        return not host.is_loopback and not any(host in network for network in self._settings.clients)
