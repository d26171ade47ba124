"""The parsers that read what strangers write, each with what must hold of its answer, whatever it is given."""

import contextlib
import json
import re
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from mitmproxy import http

from addon import settings
from addon.registry import challenge, ranges, routes
from addon.registry.digest import Digest
from addon.registry.errors import SpecError
from addon.registry.ranges import ByteRange
from addon.registry.routes import Kind
from addon.settings import ConfigError
from addon.transfer import redact
from addon.transfer.upstream import UpstreamError, redirected
from addon.ui.options import OPTIONS

Target = Callable[[str], None]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def digest(text: str) -> None:
    """A digest is what was written, and names one file in its algorithm's folder."""
    try:
        read = Digest.parse(text)
    except ValueError:
        return
    assert str(read) == text
    root = Path("/store/blobs")
    path = (root / read.algorithm / read.encoded).resolve()
    assert path == root / read.algorithm / read.encoded
    assert path.relative_to(root).parts == (read.algorithm, read.encoded)
    assert (len(read.encoded) in (64, 128)) or not read.verifiable


def route(text: str) -> None:
    """A path asks for one thing, whatever its query; a blob that is accepted is one that a registry could have."""
    found = routes.parse(text)
    assert routes.parse(text.partition("?")[0] + "?ns=docker.io") == found
    if found is None or found.kind is not Kind.BLOB:
        return
    try:
        blob = found.blob()
    except SpecError as e:
        assert e.status == 400
        json.loads(e.body())
        return
    assert NAME.fullmatch(found.repository)
    assert ".." not in found.repository
    assert routes.parse(f"/v2/{found.repository}/blobs/{blob}") == found


def range_header(text: str) -> None:
    """A Range header asks for the whole blob, for parts that lie within it, or is refused with 416."""
    try:
        wanted = ranges.parse(text)
        for size in (0, 1, 100, 2**62):
            with contextlib.suppress(SpecError):
                parts = ranges.spans(wanted, size)
                assert sum(map(len, parts)) <= size
                assert all(0 <= part.start < part.stop <= size for part in parts)
    except SpecError as e:
        assert e.status == 416
        assert text.strip().lower().startswith("bytes")
        return
    assert len(wanted) <= 64
    for each in wanted:
        assert each != ByteRange(None, None)
        assert each.first is None or each.last is None or each.first <= each.last


def content_range(text: str) -> None:
    """A Content-Range that is accepted contradicts nothing, least of all itself."""
    found = ranges.parse_content_range(text)
    if found is None:
        return
    span, size = found
    assert 0 <= span.start < span.stop
    assert size is None or span.stop <= size
    assert ranges.parse_content_range(span.content_range(span.stop if size is None else size)) is not None


def www_authenticate(text: str) -> None:
    """A header yields challenges by the grammar, never an error; the one to follow names a realm."""
    found = challenge.parse([text])
    for each in found:
        assert TOKEN.fullmatch(each.scheme)
        assert all(TOKEN.fullmatch(name) for name in each.params)
    chosen = challenge.bearer(found)
    assert chosen is None or (chosen.scheme == "bearer" and chosen.params["realm"])


def config_file(text: str) -> None:
    """A config file is read, or refused with one of its lines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            file = settings.read_file(path)
        except ConfigError as e:
            assert str(e).startswith(str(path.resolve()))
            return
        lines = len(re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text))
        for fault in settings.check_file(file, {name: kind for name, (kind, _, _) in OPTIONS.items()}):
            assert 1 <= fault.line <= lines
            assert fault.message


def registries(text: str) -> None:
    """The mapping ``registries:`` gives registries by their hosts, or is refused with a key."""
    try:
        nested = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    try:
        found = settings.parse_registries(nested)
    except ConfigError as e:
        assert e.keys[0] == settings.REGISTRIES
        return
    for host, registry in found.items():
        assert HOST.fullmatch(host)
        assert registry.host == host
        assert all(HOST.fullmatch(realm) for realm in registry.realms)


def redirect(text: str) -> None:
    """A redirect leads to another request over TLS, whose head is one head, or nowhere."""
    asked = http.Request.make("GET", "https://registry.example/v2/a/blobs/b", b"")
    asked.headers["Authorization"] = "Bearer secret"
    try:
        follow = redirected(asked, text)
    except UpstreamError:
        return
    assert follow.scheme == "https"
    assert not re.search(r"[\0-\x20\x7f]", follow.path + follow.host + follow.headers["Host"])
    assert (follow.host, follow.port) == ("registry.example", 443) or "Authorization" not in follow.headers


def redacted(text: str) -> None:
    """What is kept of an address, a header or a token service's answer has lost its secrets, and loses no more."""
    secret = "S3cr3tS3cr3t"
    for uri in (f"{text}?sig={secret}", f"https://cdn.example/x?{text}&sig={secret}", f"https://u:{secret}@{text}"):
        kept = redact.reference(uri, set())
        # What stands behind a name that is known to be harmless, stays; a user is one only before the path.
        assert secret not in kept or re.search(r"[?&;](?i:last|from|n|tag|scope)=", uri) or re.search(r"[/?#\s]", text)
        assert redact.reference(kept, set()) == kept
    for name in ("Authorization", "Cookie", "X-Registry-Auth"):
        assert secret not in redact.header(name, f"{text}{secret}", set())
    answer = http.Response.make(200, json.dumps({text: secret, "token": secret}))
    asked = http.Request.make("GET", "https://auth.example/token")
    kept_answer = redact.response(answer, asked, set())
    if text not in redact._FIELDS:
        assert secret.encode() not in (kept_answer.raw_content or b"")
    assert redact.response(kept_answer, asked, set()) is kept_answer


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        digest,
        route,
        range_header,
        content_range,
        www_authenticate,
        config_file,
        registries,
        redirect,
        redacted,
    )
}
SEEDS: dict[str, tuple[str, ...]] = {
    "digest": (f"sha256:{'0a' * 32}", f"sha512:{'0a' * 64}", "a+b.c-d_e:x=y_z"),
    "route": (
        f"/v2/library/alpine/blobs/sha256:{'0a' * 32}?ns=docker.io",
        "/v2/a%2Fb/blobs/uploads/x",
        "/v2/a/manifests/latest",
        "/v2/a/../b/blobs/sha256:%2e%2e",
        "/v2/_catalog",
    ),
    "range_header": ("bytes=0-", "bytes=0-0,-1, 5-9", "bytes=9223372036854775807-"),
    "content_range": ("bytes 0-4/5", "bytes 1-2/*"),
    "www_authenticate": (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull"',
        'Basic realm="a\\"b", Negotiate YWJj==, Bearer error=x',
    ),
    "config_file": (
        "registry_hosts: [ghcr.io]\nregistry_max_fills: 3\nregistries:\n  ghcr.io:\n    auth: inject\n",
        "a: &a {b: *a}\n",
        "? [a, b]\n: c\nregistry_redact: 1\n",
        "[" * 3000,
    ),
    "registries": ("ghcr.io: {auth: inject, realms: [ghcr.io]}", "a: &a {realms: *a}", "1.2.3.4:5: {ping: local}"),
    "redirect": ("/there", "//cdn.example:8443/a?b=c", "https://u:p@[2001:db8::1]/\\..", "http:a", "https:///x"),
    "redacted": ("a=b;c", "n=", "#", "%6e=", "<x>", "last"),
}
"""Where a hunt begins, for each target."""

ALPHABETS: dict[str, str] = {
    "digest": "sha25612:+._-/=af0",
    "route": "/v2_abloskmnifet.%2F0:?-",
    "range_header": "bytes=0123456789-, \t",
    "content_range": "bytes 0123456789-/*",
    "www_authenticate": 'Bearsic lmvpo="\\,=\t',
    "config_file": "registy_hofluxdmnpkac: -[]{}&*!|'\"#\n",
    "registries": "ghcr.io:authpinlmsedk- []{}&*\n1",
    "redirect": "https://@[]:.?#%\\cdn1\n",
    "redacted": "?&;=#@/:%<> " + string.ascii_lowercase,
}
"""Of what most inputs consist: what is random altogether is refused too soon to be of interest."""
