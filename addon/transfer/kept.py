"""Sees to it that nothing keeps a flow with its secrets in it (option ``registry_redact``).

A flow needs them until its last byte was sent, and mitmproxy's addons begin to keep it before that: `save` (``-w``)
writes it in the ``response`` hook, behind which the answer's head is still to be sent, and `savehar` takes it up there.
So there are two moments:

- `shield`, which `addon.transfer.dispatch` puts around those addons' hooks: for as long as they look, the flow holds
  copies of its messages without the secrets. What is on its way is not touched.
- `over`, called once nothing more is sent: the copies take the messages' place for good. Whoever still needs a message
  as it was (a fill that goes on at the CDN's address) keeps that message, not the flow.

What has not ended when mitmproxy does, and is written all the same, is written as a copy: `release`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mitmproxy import ctx, flow, http
from mitmproxy.addons import dumper, save, savehar
from mitmproxy.hooks import UpdateHook

from addon.transfer import redact
from addon.transfer.target import to_the_proxy

Hook = Callable[..., Any]

_KEEPERS = (save.Save, savehar.SaveHar, dumper.Dumper)
_ENDS = frozenset({"response", "error", "websocket_end", "http_connect_error"})
_LOGIN = "proxyauth"
"""The key in a flow's metadata at which mitmproxy's addon of that name leaves user and password."""


def shield(addon: object, event: str, function: Hook) -> Hook:
    """What takes the place of an addon's hook: itself, or, where the addon keeps flows, one that gets no secret."""
    if not isinstance(addon, _KEEPERS) or event not in _ENDS:
        return function

    def shielded(ended: http.HTTPFlow) -> None:
        with without_secrets(ended):
            function(ended)

    return shielded


def redacting() -> bool:
    """Whether secrets are to be taken out; they are not where Pulltap's options are not declared."""
    return "registry_redact" in ctx.options and bool(ctx.options.registry_redact)


@contextmanager
def without_secrets(shown: http.HTTPFlow) -> Iterator[None]:
    """For as long as this lasts, the flow has no secrets. Nothing may be sent of it meanwhile, so do not wait in it."""
    if not redacting():
        yield
        return
    before = shown.request, shown.response, shown.error, shown.metadata, shown._backup
    _redact(shown)
    try:
        yield
    finally:
        shown.request, shown.response, shown.error, shown.metadata, shown._backup = before


def over(ended: http.HTTPFlow) -> None:
    """Take the secrets out of a flow of which nothing more is sent; may be called again."""
    if not redacting():
        return
    if _redact(ended) and ctx.master.addons.get("view"):
        # The flow list shows what it was told.
        ctx.master.addons.trigger(UpdateHook([ended]))


def release() -> None:
    """Let go of the flows that have not ended, because what keeps them is about to write them: it gets copies."""
    if not redacting():
        return
    if saving := ctx.master.addons.get("save"):
        saving.active_flows = {_copy(each) for each in saving.active_flows}
    if har := ctx.master.addons.get("savehar"):
        har.flows = [_copy(each) for each in har.flows]


def _copy(kept: flow.Flow) -> flow.Flow:
    if not isinstance(kept, http.HTTPFlow) or not kept.live:
        return kept
    copy: http.HTTPFlow = kept.copy()
    copy.id = kept.id
    _redact(copy)
    return copy


def _redact(changed: http.HTTPFlow) -> bool:
    """Put messages without secrets into a flow; whether that changes it."""
    found: set[str] = set()
    before, own = (changed.request, changed.response), to_the_proxy(changed)
    changed.request = redact.request(changed.request, found)
    if changed.response and not own:
        changed.response = redact.response(changed.response, before[0], found)
    if changed.error and found and (said := redact.text(changed.error.msg, found)) != changed.error.msg:
        changed.error = flow.Error(said, changed.error.timestamp)
    if login := changed.metadata.get(_LOGIN):
        changed.metadata = {**changed.metadata, _LOGIN: (login[0], redact.REDACTED)}
    # What a person edited can no longer be taken back, since that would bring the secrets back.
    changed._backup = None
    return changed.request is not before[0] or changed.response is not before[1]


def revive(repeated: http.HTTPFlow) -> None:
    """Let a request that a person repeats go without what was taken out of it; Pulltap may have a token for it."""
    if repeated.is_replay == "request":
        headers = repeated.request.headers
        for name in {name for name, value in headers.items(multi=True) if value.endswith(redact.REDACTED)}:
            del headers[name]


class Redaction:
    """The addon for what no stream of ours ends: web sockets, and requests that a person repeats. Is to be the last."""

    def __init__(self, owns: Callable[[http.HTTPFlow], bool]) -> None:
        """Take care of all but the flows that Pulltap itself makes.

        Args:
            owns: whether a flow is one of them.
        """
        self._owns = owns

    def response(self, flow: http.HTTPFlow) -> None:
        """A repeated request's answer goes nowhere."""
        if flow.is_replay == "request" and not self._owns(flow):
            over(flow)

    error = response

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """A web socket is closed."""
        over(flow)
