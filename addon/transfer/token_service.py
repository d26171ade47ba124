"""Asks token services, through mitmproxy's core as everything else."""

from mitmproxy import connection, http

from addon.auth.tokens import TokenAnswer, TokenQuestion
from addon.settings import authority
from addon.transfer.upstream import Upstream, UpstreamError


class TokenService:
    """Gives `addon.auth.tokens.Tokens` its way to the network."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def fetch(self, question: TokenQuestion) -> TokenAnswer:
        """Ask; redirects are not followed, since what the question carries is meant for this host alone.

        Raises:
            OSError: no answer came.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "pulltap"}
        try:
            request = http.Request.make(question.method, question.url, question.body)
        except ValueError as e:
            raise OSError(f"its address is none: {e}") from e
        request.headers.update({**headers, **question.headers})
        request.headers["Host"] = authority(request.scheme, request.host, request.port)
        if not question.body:
            del request.headers["Content-Length"]
        client = connection.Client(peername=("pulltap", 0), sockname=("pulltap", 0))
        try:
            response, _ = await self._upstream.ask(request, client, "pulltap: token")
        except UpstreamError as e:
            raise OSError(str(e)) from e
        return TokenAnswer(response.status_code, response.raw_content or b"", response.headers.get("retry-after"))
