"""What of a request or an answer may be kept."""

import json

import pytest
from mitmproxy import http

from addon.transfer.redact import REDACTED, header, reference, request, response, text

SIGNED = "https://cdn.example/blobs/sha256/ab/abcd/data"
OPAQUE = "AF2kz" + "x9_Q-" * 40


def asked(url: str = "https://registry.example/v2/a/manifests/b", method: str = "GET", **headers: str) -> http.Request:
    message = http.Request.make(method, url)
    message.headers = http.Headers((), **headers)
    return message


def answered(status: int = 200, content: bytes = b"", **headers: str) -> http.Response:
    message = http.Response.make(status, content)
    message.headers = http.Headers((), **headers)
    return message


# URLs.


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        # CloudFront, S3, Azure, Google, Cloudflare.
        (
            f"{SIGNED}?Expires=17&Signature=s3cr~et__&Key-Pair-Id=K1",
            f"{SIGNED}?Expires=17&Signature=REDACTED&Key-Pair-Id=REDACTED",
        ),
        (
            f"{SIGNED}?X-Amz-Algorithm=A&X-Amz-Credential=AKIA%2F1&X-Amz-Date=2&X-Amz-Expires=3&X-Amz-Signature=4",
            f"{SIGNED}?X-Amz-Algorithm=A&X-Amz-Credential=REDACTED&X-Amz-Date=2&X-Amz-Expires=3&X-Amz-Signature=REDACTED",
        ),
        (f"{SIGNED}?se=2026&sp=r&sig=a%2Bb&skoid=1", f"{SIGNED}?se=2026&sp=r&sig=REDACTED&skoid=REDACTED"),
        (f"{SIGNED}?verify=17-abc%3D", f"{SIGNED}?verify=REDACTED"),
        (
            f"{SIGNED}?GoogleAccessId=a&Expires=1&Signature=b",
            f"{SIGNED}?GoogleAccessId=REDACTED&Expires=1&Signature=REDACTED",
        ),
        # What has no name, or hides where one is due.
        (f"{SIGNED}?eyJhbGciOi", f"{SIGNED}?REDACTED"),
        (f"{SIGNED}?c2VjcmV0=", f"{SIGNED}?REDACTED"),
        (f"{SIGNED}?=secret", f"{SIGNED}?REDACTED"),
        (f"{SIGNED}?n=1;sig=secret", f"{SIGNED}?n=1;sig=REDACTED"),
        (f"{SIGNED}?a?b=secret", f"{SIGNED}?REDACTED"),
        (f"{SIGNED}?%6E=5&%73ig=secret", f"{SIGNED}?REDACTED&REDACTED"),
        (f"{SIGNED}?n=1&&last=", f"{SIGNED}?n=1&&last="),
        (f"{SIGNED}#token=secret", f"{SIGNED}#REDACTED"),
        ("https://user:pass@cdn.example/x", "https://REDACTED@cdn.example/x"),
        ("//user@cdn.example/x@y", "//REDACTED@cdn.example/x@y"),
        # What opens a blob may be in the path.
        (f"https://cdn.example/downloads/{OPAQUE}", "https://cdn.example/downloads/REDACTED"),
        (f"/downloads/{OPAQUE}/x?n=1", "/downloads/REDACTED/x?n=1"),
        # What is no secret.
        ("/v2/_catalog?n=100&last=library%2Falpine", "/v2/_catalog?n=100&last=library%2Falpine"),
        ("/v2/a/blobs/uploads/?mount=sha256:ab&from=b/c", "/v2/a/blobs/uploads/?mount=sha256:ab&from=b/c"),
        ("/token?service=a&scope=repository:b:pull&scope=c", "/token?service=a&scope=repository:b:pull&scope=c"),
        (f"/v2/a/blobs/sha512:{'0a' * 64}", f"/v2/a/blobs/sha512:{'0a' * 64}"),
        (f"/blobs/sha512/0a/{'0a' * 64}/data", f"/blobs/sha512/0a/{'0a' * 64}/data"),
        ("", ""),
        ("*", "*"),
    ],
)
def test_an_address(uri: str, kept: str) -> None:
    found: set[str] = set()
    assert reference(uri, found) == kept
    assert reference(kept, found) == kept


def test_secrets_of_an_address_are_found_quoted_and_not() -> None:
    found: set[str] = set()
    reference(f"{SIGNED}?sig=ab%2Bcd%3D%3D&x=short", found)
    assert found == {"ab%2Bcd%3D%3D", "ab+cd=="}


# Headers.


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("Authorization", "Bearer abc.def", "Bearer REDACTED"),
        ("authorization", "Basic dTpw", "Basic REDACTED"),
        ("Authorization", "AWS4-HMAC-SHA256 Credential=x, Signature=y", REDACTED),
        ("Authorization", "justatoken", REDACTED),
        ("Proxy-Authorization", "Basic dTpw", "Basic REDACTED"),
        ("Cookie", "session=1; b=2", REDACTED),
        ("Set-Cookie", "session=1; Path=/; Secure", REDACTED),
        ("X-Registry-Auth", "eyJ1c2VybmFtZSI6ICJ4In0=", REDACTED),
        ("Private-Token", "glpat-1", REDACTED),
        ("X-Amz-Security-Token", "abc", REDACTED),
        ("X-JFrog-Art-Api-Key", "abc", REDACTED),
        ("Location", f"{SIGNED}?Signature=x", f"{SIGNED}?Signature=REDACTED"),
        ("Location", "/v2/a/blobs/uploads/1?_state=abc", "/v2/a/blobs/uploads/1?_state=REDACTED"),
        ("Content-Location", "/x?k=abc", "/x?k=REDACTED"),
        ("Referer", f"{SIGNED}?Signature=x", f"{SIGNED}?Signature=REDACTED"),
        ("Link", '</v2/a/tags/list?n=1&last=b>; rel="next"', '</v2/a/tags/list?n=1&last=b>; rel="next"'),
        ("Link", '</x?t=abc>; rel="next", </y?n=1>', '</x?t=REDACTED>; rel="next", </y?n=1>'),
        ("Link", "</x?t=abc", "</x?t=REDACTED>"),
        ("X-Sendfile-From", f"{SIGNED}?Signature=x", f"{SIGNED}?Signature=REDACTED"),
        (
            "WWW-Authenticate",
            'Bearer realm="https://auth.example/token?x=1",service="s"',
            'Bearer realm="https://auth.example/token?x=1",service="s"',
        ),
        ("Proxy-Authenticate", 'Basic realm="mitmproxy"', 'Basic realm="mitmproxy"'),
        ("ETag", '"abc?d=e"', '"abc?d=e"'),
        ("Docker-Content-Digest", "sha256:" + "0" * 64, "sha256:" + "0" * 64),
        ("Cache-Status", "pulltap; fwd=miss; stored", "pulltap; fwd=miss; stored"),
    ],
)
def test_a_header(name: str, value: str, kept: str) -> None:
    assert header(name, value, set()) == kept
    assert header(name, kept, set()) == kept


# Requests.


def test_a_request_without_secrets_is_kept_as_it_is() -> None:
    message = asked("https://registry.example/v2/a/tags/list?n=5", Accept="*/*", Host="registry.example")
    assert request(message, set()) is message


def test_a_request_is_not_changed_itself() -> None:
    message = asked(f"{SIGNED}?Signature=secret", Authorization="Bearer secret-token", Accept="*/*")
    before, found = message.get_state(), set[str]()
    kept = request(message, found)
    assert message.get_state() == before
    assert (kept.path, kept.headers["Authorization"]) == (
        "/blobs/sha256/ab/abcd/data?Signature=REDACTED",
        "Bearer REDACTED",
    )
    assert (kept.method, kept.host, kept.headers["Accept"]) == ("GET", "cdn.example", "*/*")
    assert found == {"secret", "secret-token"}
    assert request(kept, set()) is kept


def test_every_line_of_a_head_and_of_a_trailer() -> None:
    message = asked()
    message.headers = http.Headers([(b"cookie", b"one"), (b"X", b"\xff"), (b"COOKIE", b"\xfftwo")])
    message.trailers = http.Headers([(b"X-Token", b"three")])
    kept = request(message, set())
    assert kept.headers.fields == ((b"cookie", b"REDACTED"), (b"X", b"\xff"), (b"COOKIE", b"REDACTED"))
    assert kept.trailers
    assert kept.trailers.fields == ((b"X-Token", b"REDACTED"),)


def test_a_form_to_a_token_service() -> None:
    form = b"grant_type=refresh_token&refresh_token=dckr.abc&service=s&scope=a+b&username=u&password=p%20w"
    message = asked("https://auth.example/token", "POST", Content_Type="application/x-www-form-urlencoded")
    message.raw_content = form
    found: set[str] = set()
    assert request(message, found).raw_content == (
        b"grant_type=refresh_token&refresh_token=REDACTED&service=s&scope=a+b&username=REDACTED&password=REDACTED"
    )
    assert "dckr.abc" in found
    message.raw_content = b"\xff\xfe=&\x00"
    assert b"\xff" not in (request(message, set()).raw_content or b"")


@pytest.mark.parametrize(
    ("url", "content", "kept"),
    [
        ("https://auth.example/token", b"whatever", REDACTED.encode()),
        ("https://auth.example/token", b'{"password": "secret"}', b'{"password": "REDACTED"}'),
        ("https://quay.io/v2/auth", b"whatever", REDACTED.encode()),
        ("https://registry.example/v2/a/manifests/b", b'{"schemaVersion": 2}', b'{"schemaVersion": 2}'),
    ],
)
def test_other_bodies_of_requests(url: str, content: bytes, kept: bytes) -> None:
    message = asked(url, "PUT")
    message.raw_content = content
    assert request(message, set()).raw_content == kept


# Answers.


def test_an_answer_without_secrets_is_kept_as_it_is() -> None:
    manifest = json.dumps({"schemaVersion": 2, "layers": [{"digest": "sha256:0"}]}).encode()
    for message in (answered(200, manifest, ETag='"x"'), answered(404, b'{"errors":[{"code":"X"}]}'), answered(204)):
        assert response(message, asked(), set()) is message


def test_a_redirect() -> None:
    message = answered(307, b"", Location=f"{SIGNED}?Expires=1&Signature=secret", Set_Cookie="a=b")
    before = message.get_state()
    kept = response(message, asked("https://registry.example/v2/a/blobs/b"), set())
    assert message.get_state() == before
    assert kept.headers["Location"] == f"{SIGNED}?Expires=1&Signature=REDACTED"
    assert kept.headers["Set-Cookie"] == REDACTED
    assert response(kept, asked(), set()) is kept


@pytest.mark.parametrize("url", ["https://auth.example/token?service=s", "https://quay.io/v2/auth?service=s"])
def test_an_answer_of_a_token_service(url: str) -> None:
    said = {"token": "t0ken", "access_token": "t0ken", "refresh_token": "r", "identity_token": "i", "id_token": "j"}
    known = {"expires_in": 300, "issued_at": "2026-01-01T00:00:00Z", "scope": "a", "token_type": "Bearer"}
    body = json.dumps({**said, **known, "more": {"deep": ["x"]}}).encode()
    kept = response(answered(200, body, Content_Length=str(len(body))), asked(url), set())
    assert json.loads(kept.raw_content or b"") == {
        **dict.fromkeys(said, REDACTED),
        **known,
        "more": {"deep": [REDACTED]},
    }
    assert kept.headers["Content-Length"] == str(len(body)), "it was sent so"


@pytest.mark.parametrize("body", [b"t0ken", b'{"token": "t0', b'"t0ken"', b"<token>t0ken</token>", b"[" * 100_000])
def test_an_answer_of_a_token_service_that_is_no_json_object(body: bytes) -> None:
    kept = response(answered(200, body), asked("https://auth.example/token"), set())
    assert (kept.raw_content or b"").strip(b'"') == REDACTED.encode()


def test_an_answer_of_a_token_service_in_a_coding() -> None:
    kept = response(answered(200, b"\x1f\x8b", Content_Encoding="gzip"), asked("https://auth.example/token"), set())
    assert kept.raw_content == REDACTED.encode()
    assert "Content-Encoding" not in kept.headers


def test_an_error_says_what_it_says_but_for_what_it_repeats() -> None:
    found: set[str] = set()
    ask = asked(f"{SIGNED}?Signature=ab%2Fcdef", Authorization="Bearer the-token")
    request(ask, found)
    body = b"<Error>no: ab/cdef, ab%2Fcdef <Token>the-token</Token> \xff</Error>"
    kept = response(answered(403, body), ask, found)
    assert kept.raw_content == b"<Error>no: REDACTED, REDACTED <Token>REDACTED</Token> \xff</Error>"


def test_a_registry_that_gives_tokens_where_none_are_due() -> None:
    body = rb'{"Token" : "a\"b", "access_token":"c", "tokens": 3, "layers": ["x"], "refresh_token": "cut'
    kept = response(answered(200, body), asked("https://registry.example/v2/a/manifests/b"), set())
    assert kept.raw_content == (
        rb'{"Token" : "REDACTED", "access_token":"REDACTED", "tokens": 3, "layers": ["x"], "refresh_token": "REDACTED"'
    )


def test_a_text_without_what_was_found() -> None:
    assert text("from secret-1 to secret", {"secret", "secret-1"}) == "from REDACTED to REDACTED"
    assert text("nothing", set()) == "nothing"
