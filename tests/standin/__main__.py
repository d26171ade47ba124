"""Run the stand-in by hand: `python -m tests.standin`, then do as it says. Ctrl-C ends it."""

import argparse
import json
import shlex
import signal
import sys
import threading
from pathlib import Path

from . import Hub, RegistryMissing

_REMAP = Path(__file__).with_name("remap.py")


def main() -> None:
    """Start it, say how to use it, and show what it is asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="MiB of library/big's layer (default: %(default)s)")
    arguments = parser.parse_args()
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    try:
        hub = Hub()
    except RegistryMissing as error:
        sys.exit(str(error))
    with hub:
        images = [hub.small, hub.single, hub.push("library/big", sizes=(arguments.size << 20,), seed=1)]
        hub.add_account("alice", "wonderland", "alice/private")
        private = hub.push("alice/private", sizes=(200_000,), seed=2)
        hub.make_private(private.repository)
        _say(_introduction(hub, [image.reference for image in images]))
        shown = 0
        running = True
        while running:
            running = not stop.wait(0.2)
            for record in hub.requests[shown:]:
                if not record.done:
                    break
                _say(str(record))
                shown += 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _introduction(hub: Hub, references: list[str]) -> str:
    here = Path.cwd()
    remap = _REMAP.relative_to(here) if _REMAP.is_relative_to(here) else _REMAP
    mapping = shlex.quote(json.dumps(hub.map))
    return f"""\
Docker Hub's stand-in runs. Its authority: {hub.ca}
Images: {", ".join(references)}; private: alice/private:latest (alice, wonderland)

1. Start Pulltap in front of it:

   STANDIN_MAP={mapping} \\
     ./run.sh -s {remap} --set ssl_verify_upstream_trusted_ca={hub.ca}

2. Pull through it, once and again. Clients must trust both sides, since the token service is not decrypted:

   cat {hub.ca} ~/.local/share/pulltap/mitmproxy-ca-cert.pem >{hub.folder}/trusted.pem
   export HTTPS_PROXY=http://127.0.0.1:3128 SSL_CERT_FILE={hub.folder}/trusted.pem
   skopeo copy docker://docker.io/{references[0]} dir:$(mktemp -d)

   or with a Docker daemon of its own (as root; end it with: kill $(cat /tmp/pulltap-docker/pid)):

   mkdir -p /tmp/pulltap-docker && cd /tmp/pulltap-docker && echo '{{}}' >config
   dockerd -H unix://$PWD/sock --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/pid \\
     --config-file $PWD/config --storage-driver vfs --bridge none --iptables=false --ip-forward=false &
   docker -H unix://$PWD/sock pull {references[0]}

Ctrl-C ends the stand-in. What it is asked:
"""


if __name__ == "__main__":
    main()
