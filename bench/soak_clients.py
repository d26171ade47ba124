"""Clients of a soak: they pull, go away, ask for ranges, come together, read slowly, and check what they get."""

import hashlib
import http.client
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.soak_checks import TROUBLE, Book, Got, Wanted, fault_of
from tests.e2e.clients.raw import Connection, Raw, Reply, Stream
from tests.standin import ACCEPT, Hub, Image

PIECE = 256 * 1024
BOUND = 60
"""Seconds after which an answer that does not come is an error."""
PAIRS = Sequence[tuple[str, str]]
_TOGETHER = 6
_SLOW_SECONDS = 12.0


@dataclass(frozen=True)
class Door:
    """A proxy, as clients see it."""

    port: int
    ca: Path

    @property
    def raw(self) -> Raw:
        """A client of it."""
        return Raw(self.port, self.ca)


class Crowd:
    """Threads, each of which does one thing after the other, at random by a seed, until they are told to end."""

    def __init__(self, hub: Hub, doors: Sequence[Door], images: Sequence[Image], private: Image, seed: int) -> None:
        """Begin with nobody.

        Args:
            hub: the upstream.
            doors: the proxies; the first one is asked most.
            images: what everybody may pull, those first that are pulled most.
            private: what only its owner may.
            seed: of the random numbers.
        """
        self.book = Book()
        self.pause = 0.2
        """Seconds, on average, between two things that one thread does."""
        self._hub = hub
        self._doors = doors
        self._images = images
        self._private = private
        self._seed = seed
        self._going = threading.Event()
        self._over = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self, number: int) -> None:
        """Send so many clients."""
        self._going.set()
        for at in range(number):
            client = Client(self, self._hub, self.book, random.Random(f"{self._seed} client {at}"))  # noqa: S311
            thread = threading.Thread(target=self._run, args=(client,), name=f"client {at}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def hold(self, bound: float) -> bool:
        """Let all finish what they do, and do nothing more; False where that takes longer than so many seconds."""
        self._going.clear()
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, bound)

    def go_on(self) -> None:
        """Begin again."""
        self._going.set()

    def end(self) -> None:
        """Send them home."""
        self._over.set()
        self._going.set()
        for thread in self._threads:
            thread.join(BOUND)

    @property
    def ending(self) -> bool:
        """Whether nobody is to begin anything long."""
        return self._over.is_set() or not self._going.is_set()

    def door(self, chance: random.Random) -> Door:
        """A proxy to go through."""
        return self._doors[0] if chance.random() < 0.8 else chance.choice(list(self._doors))

    def image(self, chance: random.Random) -> Image:
        """An image, some more often than others."""
        return self._images[min(int(chance.expovariate(3.0) * len(self._images)), len(self._images) - 1)]

    @property
    def private(self) -> Image:
        """The image that not everybody may pull."""
        return self._private

    def _run(self, client: "Client") -> None:
        while True:
            self._going.wait()
            with self._changed:
                if self._over.is_set():
                    return
                if not self._going.is_set():
                    continue
                self._busy += 1
            try:
                client.act()
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
            self._over.wait(client.chance.expovariate(1 / self.pause))


class Client:
    """One of the threads."""

    def __init__(self, crowd: Crowd, hub: Hub, book: Book, chance: random.Random) -> None:
        self.chance = chance
        self._crowd = crowd
        self._hub = hub
        self._book = book
        self._host = hub.names.registry
        self._acts: dict[Callable[[], None], float] = {
            self.pull: 5,
            self.abort: 4,
            self.abandon: 3,
            self.ranges: 4,
            self.together: 1,
            self.slow: 1.5,
            self.ask: 2,
            self.closed: 1,
        }

    def act(self) -> None:
        """Do something."""
        (act,) = self.chance.choices(list(self._acts), list(self._acts.values()))
        self._book.count(f"did {act.__name__}")
        try:
            act()
        except TimeoutError as e:
            self._book.accuse(f"{act.__name__}, until {time.strftime('%H:%M:%S')}: nothing came for {BOUND} s {e}")
        except (OSError, http.client.HTTPException) as e:
            self._book.count(f"connection: {type(e).__name__}")
        except Exception as e:  # noqa: BLE001 (a thread that ends silently would make the load smaller)
            self._book.accuse(f"the soak itself: {act.__name__}: {e!r}")

    # What it does.

    def pull(self) -> None:
        """Pull an image: its tag, its manifest, its blobs one after the other."""
        image, door = self._crowd.image(self.chance), self._crowd.door(self.chance)
        own = [self._hub.bearer(image.repository)] if self.chance.random() < 0.2 else []
        kept = door.raw.connect(self._host) if self.chance.random() < 0.5 else None
        try:
            if not self._manifest(door, kept, image, own):
                return
            pulled = 0
            for wanted in self._blobs(image):
                got = self._get(door, wanted, own, kept=kept)
                pulled += got.status == 200 and got.whole
                if not got.whole or got.header("connection") == "close":
                    # As a client does, it goes on with a new one.
                    kept = None
                if self._crowd.ending:
                    break
            self._book.count("pulled whole" if pulled == len(image.blobs) else "pulled in part")
        finally:
            if kept is not None:
                kept.__exit__(None, None, None)

    def abort(self) -> None:
        """Go away in the midst of a blob."""
        wanted, door = self._wanted(), self._crowd.door(self.chance)
        headers = [("Range", f"bytes={self.chance.randrange(wanted.size)}-")] if self.chance.random() < 0.3 else []
        stream = self._open(door, None, "GET", wanted.target, headers)
        try:
            self._book.count(f"aborted: {stream.status}")
            left = self.chance.choice((0, 1, self.chance.randrange(wanted.size)))
            while left > 0 and (piece := stream.read(min(left, PIECE))):
                left -= len(piece)
                self._book.received(len(piece))
        finally:
            stream.close()

    def abandon(self) -> None:
        """Go away before there is an answer: at any stage of the connection, politely or with a reset."""
        door, wanted = self._crowd.door(self.chance), self._wanted()
        stage = self.chance.choice(("tcp", "part", "connect", "hello", "tls", "asked", "asked"))
        self._book.count(f"abandoned: {stage}")
        with closing(socket.create_connection(("127.0.0.1", door.port), BOUND)) as plain:
            line = f"CONNECT {self._host}:443 HTTP/1.1\r\nHost: {self._host}:443\r\n\r\n".encode()
            if stage != "tcp":
                plain.sendall(line[:20] if stage == "part" else line)
            if stage in ("hello", "tls", "asked"):
                plain.recv(4096)
            last: socket.socket = plain
            if stage == "hello":
                # A record of a handshake that says it is longer.
                plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            elif stage in ("tls", "asked"):
                context = ssl.create_default_context(cafile=str(door.ca))
                last = context.wrap_socket(plain, server_hostname=self._host)
            if stage == "asked":
                last.sendall(f"GET {wanted.target} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
                self._sleep(0.2)
            if self.chance.random() < 0.5:
                last.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            last.close()

    def ranges(self) -> None:
        """Ask for parts of a blob."""
        wanted, door = self._wanted(), self._crowd.door(self.chance)
        first = self.chance.randrange(wanted.size)
        last = min(first + self.chance.randrange(300_000), wanted.size - 1)
        asked = self.chance.choice(
            (f"{first}-{last}", f"{max(0, wanted.size - 700_000)}-", f"-{last - first + 1}", f"0-0,{first}-{last},-1")
        )
        self._get(door, wanted, [("Range", f"bytes={asked}")], keep=True)

    def together(self) -> None:
        """Several clients want the same blob at the same time."""
        wanted, door = self._wanted(), self._crowd.door(self.chance)
        barrier = threading.Barrier(_TOGETHER)

        def one() -> None:
            barrier.wait(BOUND)
            try:
                self._get(door, wanted)
            except TimeoutError as e:
                self._book.accuse(f"together: nothing came for {BOUND} s {e}")
            except (OSError, http.client.HTTPException) as e:
                self._book.count(f"connection: {type(e).__name__}")

        threads = [threading.Thread(target=one, daemon=True) for _ in range(_TOGETHER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def slow(self) -> None:
        """Read slowly, to the end, or until it takes too long."""
        self._get(self._crowd.door(self.chance), self._wanted(), slow=True)

    def ask(self) -> None:
        """Ask for what has no body, or does not exist."""
        raw, wanted = self._crowd.door(self.chance).raw, self._wanted()
        missing = f"/v2/{wanted.repository}/blobs/sha256:{'0' * 64}"
        method, target, right = self.chance.choice(
            (
                ("HEAD", wanted.target, (200,)),
                ("GET", missing, (404,)),
                ("HEAD", missing, (404,)),
                ("GET", "/v2/", (401,)),
                ("GET", f"/v2/{wanted.repository}/tags/list", (200,)),
            )
        )
        reply = raw.request(method, self._hub.url(target))
        self._book.count(f"answered: {reply.status}")
        if reply.status not in (*right, *TROUBLE, 307):
            self._book.accuse(f"{method} {target}: {reply.status} {reply.body[:200]!r}")

    def closed(self) -> None:
        """Ask for a private image: as its owner, or as one who may not have it."""
        image, door = self._crowd.private, self._crowd.door(self.chance)
        wanted = self.chance.choice(self._blobs(image))
        if self.chance.random() < 0.5:
            self._get(door, wanted, [self._hub.bearer(image.repository, account="alice")])
            return
        reply = door.raw.request("GET", self._hub.url(wanted.target))
        self._book.count(f"answered: {reply.status}")
        if reply.status not in (401, *TROUBLE):
            self._book.accuse(f"a private blob is no secret: {reply.status}")

    # How.

    def _open(self, door: Door, kept: Connection | None, method: str, target: str, headers: PAIRS) -> Stream:
        """Send a request, read the head of its answer."""
        began = time.monotonic()
        try:
            if kept is None:
                return door.raw.open(method, self._hub.url(target), headers)
            return kept.open(method, target, headers)
        finally:
            self._book.waited(time.monotonic() - began, f"{method} {target}, until {time.strftime('%H:%M:%S')}")

    def _sleep(self, longest: float) -> None:
        time.sleep(self.chance.uniform(0, longest))

    def _blobs(self, image: Image) -> list[Wanted]:
        return [
            Wanted(blob.digest, blob.size, self._hub.backing.blob_path(blob.digest), image.repository)
            for blob in image.blobs
        ]

    def _wanted(self) -> Wanted:
        return self.chance.choice(self._blobs(self._crowd.image(self.chance)))

    def _manifest(self, door: Door, kept: Connection | None, image: Image, headers: PAIRS) -> bool:
        """Get the manifest, as a client does: its tag first; False where that does not succeed."""
        if self._reply(door, kept, "HEAD", image.manifest_path, headers) is None:
            return False
        reply = self._reply(door, kept, "GET", f"/v2/{image.repository}/manifests/{image.manifest.digest}", headers)
        if reply is None:
            return False
        if f"sha256:{hashlib.sha256(reply.body).hexdigest()}" != image.manifest.digest:
            self._book.accuse(f"a wrong manifest of {image.reference}")
        return True

    def _reply(self, door: Door, kept: Connection | None, method: str, target: str, headers: PAIRS) -> Reply | None:
        """An answer that is whole and good, or None."""
        stream = self._open(door, kept, method, target, [ACCEPT, *headers])
        try:
            reply = stream.rest()
        finally:
            if kept is None:
                stream.close()
        self._book.count(f"answered: {reply.status}")
        if reply.status not in (200, *TROUBLE, *((401,) if headers else ())):
            self._book.accuse(f"{method} {target}: {reply.status} {reply.body[:200]!r}")
        return reply if reply.status == 200 and reply.whole else None

    def _get(
        self,
        door: Door,
        wanted: Wanted,
        headers: PAIRS = (),
        *,
        kept: Connection | None = None,
        keep: bool = False,
        slow: bool = False,
    ) -> Got:
        """Get a blob or a part of it, and check what came."""
        stream = self._open(door, kept, "GET", wanted.target, headers)
        try:
            got = self._read(stream, keep=keep, slow=slow)
        except TimeoutError as e:
            how = ", ".join(value for key, value in stream.headers if key.lower() == "cache-status")
            raise TimeoutError(f"of {wanted.target} {dict(headers).get('Range', '')} ({how}, port {door.port})") from e
        finally:
            if kept is None:
                stream.close()
        how = got.header("cache-status").removeprefix("pulltap; ")
        self._book.count(f"answered: {got.status}")
        self._book.count(f"blob: {how or 'no Cache-Status'}{'' if got.whole else ', cut'}")
        if fault := fault_of(got, wanted, own=any(key == "Authorization" for key, _ in headers)):
            self._book.accuse(f"GET {wanted.target} {dict(headers).get('Range', '')}: {fault} ({how})")
        return got

    def _read(self, stream: Stream, *, keep: bool, slow: bool) -> Got:
        headers = stream.headers
        length = next((int(value) for key, value in headers if key.lower() == "content-length"), None)
        bypassed = any("fwd=bypass" in value for key, value in headers if key.lower() == "cache-status")
        hasher, body, count, whole = hashlib.sha256(), bytearray(), 0, True
        deadline = time.monotonic() + _SLOW_SECONDS
        try:
            while piece := stream.read(PIECE // 8 if slow else PIECE):
                count += len(piece)
                hasher.update(piece)
                if keep or bypassed or stream.status >= 400:
                    body += piece
                if slow:
                    self._sleep(0.1)
                    if time.monotonic() > deadline or self._crowd.ending:
                        whole = False
                        break
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            whole = False
        if length is not None and count != length:
            whole = False
        self._book.received(count)
        digest = f"sha256:{hasher.hexdigest()}"
        return Got(stream.status, headers, count, digest, bytes(body), whole)
