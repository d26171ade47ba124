"""The proxy's own pages: a plain request to the proxy's own address. Nothing there changes state."""

from pathlib import Path

from mitmproxy import ctx, http

from addon.parts import Parts
from addon.transfer import answers
from addon.transfer.target import names_the_proxy, to_the_proxy

CA = "mitmproxy-ca-cert.pem"
"""mitmproxy's name, in its confdir, of the CA certificate that clients are to trust."""
_INDEX = """\
Pulltap: container pulls, local after the first one.

/healthz   200 when the store can be written
/ca.pem    the CA certificate that clients of this proxy are to trust
"""
_MISDIRECTED = """\
pulltap: this request was sent to the proxy as to a web server, under a name that is not the proxy's.
Ask for the proxy's own pages by its address; for anything else, name it as a proxy.
"""


def ca_path() -> Path:
    """Where the CA certificate lies."""
    return Path(ctx.options.confdir).expanduser() / CA


class Pages:
    """Answers requests to the proxy itself."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def request(self, flow: http.HTTPFlow) -> None:
        """Answer (mitmproxy's hook for a request that is there in full)."""
        if flow.response or flow.error or not flow.live or not to_the_proxy(flow):
            return
        if names_the_proxy(flow.request.host):
            flow.response = await self._answer(flow.request)
        else:
            # To forward it would ask ourselves again, and again.
            flow.response = answers.text(421, _MISDIRECTED)
        flow.response.headers["Cache-Control"] = "no-store"

    async def _answer(self, request: http.Request) -> http.Response:
        path = request.path.partition("?")[0]
        pages = {"/": self._index, "/healthz": self._health, "/ca.pem": self._ca}
        if path not in pages:
            return answers.text(404, f"no such page; there are {', '.join(pages)}\n")
        if request.method not in ("GET", "HEAD"):
            response = answers.text(405, "these pages are only read\n")
            response.headers["Allow"] = "GET, HEAD"
            return response
        return await pages[path]()

    async def _index(self) -> http.Response:
        return answers.text(200, _INDEX)

    async def _health(self) -> http.Response:
        if reason := await self._parts.fills.failing():
            return answers.text(503, f"the store {self._parts.store.root} cannot be written: {reason}\n")
        return answers.text(200, "ok\n")

    async def _ca(self) -> http.Response:
        try:
            certificate = ca_path().read_bytes()
        except OSError as e:
            return answers.text(503, f"the CA certificate cannot be read: {e.strerror}\n")
        return http.Response.make(
            200,
            certificate,
            {"Content-Type": "application/x-pem-file", "Content-Disposition": 'attachment; filename="pulltap-ca.pem"'},
        )
