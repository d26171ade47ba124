"""curl."""

import itertools
from pathlib import Path

from ..programs import need, run
from . import Via, client_environment
from .raw import Reply


class Curl:
    """One command per request."""

    def __init__(self, folder: Path, via: Via) -> None:
        self._env = client_environment(folder, via)
        # curl reads SSL_CERT_FILE only where it was built with OpenSSL.
        self._command = [need("curl"), "--silent", "--show-error", "--cacert", str(via.ca)]
        self._folder = folder
        self._numbers = itertools.count(1)

    def get(self, url: str, *args: str) -> Reply:
        """One transfer with further options; the last answer, if there was a redirect. Raises CommandFailed."""
        number = next(self._numbers)
        head, body = self._folder / f"head-{number}", self._folder / f"body-{number}"
        run([*self._command, "--dump-header", str(head), "--output", str(body), *args, url], self._env)
        # CONNECT's answer, redirects and interim answers come first, each with an empty line after it.
        last = head.read_bytes().decode("latin-1").strip().split("\r\n\r\n")[-1].split("\r\n")
        _, status, *reason = last[0].split(" ", 2)
        headers = tuple((key, value.strip()) for key, _, value in (line.partition(":") for line in last[1:]))
        content = body.read_bytes() if body.exists() else b""
        return Reply(int(status), "".join(reason), headers, content)
