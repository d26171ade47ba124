"""The peer: a mitmproxy that answers a blob's request out of its memory, and does nothing else (``-s bare.py``).

BENCH_BODY names the file whose bytes it answers with.
"""

import os
from pathlib import Path

from mitmproxy import http

BODY = Path(os.environ["BENCH_BODY"]).read_bytes()


def request(flow: http.HTTPFlow) -> None:
    """Answer, with as many headers as a registry sends."""
    digest = flow.request.path.rpartition("/")[2]
    flow.response = http.Response.make(
        200,
        BODY,
        {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Docker-Distribution-Api-Version": "registry/2.0",
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=31536000",
        },
    )
