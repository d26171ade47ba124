"""Image references, as people type them and as they are shown."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.reference import Reference, familiar

HUB = "registry-1.docker.io"
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "reference"),
    [
        ("alpine", HUB, "library/alpine", "latest"),
        ("alpine:3.20", HUB, "library/alpine", "3.20"),
        ("team/app", HUB, "team/app", "latest"),
        ("team/app/part:v1", HUB, "team/app/part", "v1"),
        (f"alpine@{DIGEST}", HUB, "library/alpine", DIGEST),
        # With both, the digest decides.
        (f"alpine:3.20@{DIGEST}", HUB, "library/alpine", DIGEST),
        ("ghcr.io/owner/name:tag", "ghcr.io", "owner/name", "tag"),
        ("ghcr.io/name", "ghcr.io", "name", "latest"),
        # All names of Docker Hub.
        ("docker.io/alpine", HUB, "library/alpine", "latest"),
        ("docker.io/library/alpine", HUB, "library/alpine", "latest"),
        ("index.docker.io/team/app:1", HUB, "team/app", "1"),
        (f"{HUB}/alpine", HUB, "library/alpine", "latest"),
        ("Docker.IO/alpine", HUB, "library/alpine", "latest"),
        # Hosts: those with a dot or a port, and localhost.
        ("localhost/app", "localhost", "app", "latest"),
        ("localhost:5000/app:1", "localhost:5000", "app", "1"),
        ("registry:5000/team/app", "registry:5000", "team/app", "latest"),
        ("registry/app", HUB, "registry/app", "latest"),
        ("LOCALHOST/app", "localhost", "app", "latest"),
        ("10.0.0.1/app", "10.0.0.1", "app", "latest"),
        ("10.0.0.1:5000/app", "10.0.0.1:5000", "app", "latest"),
        ("[::1]/app", "[::1]", "app", "latest"),
        ("[2001:DB8::1]:5000/app:2", "[2001:db8::1]:5000", "app", "2"),
        ("GHCR.io/owner/name:Tag", "ghcr.io", "owner/name", "Tag"),
        (f"GHCR.io/owner/name@{DIGEST}", "ghcr.io", "owner/name", DIGEST),
        # As in registry_hosts, a usual port goes without saying.
        ("ghcr.io:443/owner/name", "ghcr.io", "owner/name", "latest"),
        ("localhost:80/app", "localhost", "app", "latest"),
        ("registry:443/app", "registry", "app", "latest"),
        ("docker.io:443/alpine", HUB, "library/alpine", "latest"),
        ("localhost:05000/app", "localhost:5000", "app", "latest"),
        # Without a slash in front of it, what follows a colon is a tag.
        ("localhost:5000", HUB, "library/localhost", "5000"),
        ("a.b", HUB, "library/a.b", "latest"),
        (f"a@sha512:{'0' * 128}", HUB, "library/a", f"sha512:{'0' * 128}"),
    ],
)
def test_what_people_type(text: str, registry: str, repository: str, reference: str) -> None:
    parsed = Reference.parse(text)
    assert (parsed.registry, parsed.repository, parsed.reference) == (registry, repository, reference)
    assert parsed.is_digest is (":" in reference)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":latest",
        "/",
        "alpine:",
        "alpine:a b",
        "alpine:3:4",
        "alpine:-x",
        "alpine:" + "x" * 129,
        "Alpine",
        "al pine",
        "alpine\n",
        "alpine:3\n",
        "-alpine",
        "a//b",
        "a/",
        "/a",
        "ghcr.io/",
        "ghcr.io//a",
        "ghcr.io/Owner/name",
        "Registry/app",
        "ghcr.io:/a",
        "ghcr.io:0/a",
        "ghcr.io:65536/a",
        "ghcr.io:x/a",
        "ghcr.io./a",
        "../a",
        ".hidden/a",
        "-x.example/a",
        "::1/a",
        "[::1/a",
        "[x]/a",
        "https://ghcr.io/a",
        "docker://alpine",
        "user@ghcr.io/a",
        "é/a",
        "a" * 256,
        "\x1b[31m",
    ],
)
def test_what_is_no_image(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(no image: .*; write name:tag, or registry/name:tag|not a digest: .*)$"):
        Reference.parse(text)


@pytest.mark.parametrize(
    "digest", ["", "x", "latest", f"sha256:{'a' * 63}", f"sha256:{'A' * 64}", f"{DIGEST}@{DIGEST}"]
)
def test_what_is_no_digest(digest: str) -> None:
    with pytest.raises(ValueError, match=r"not a (sha256 )?digest"):
        Reference.parse(f"alpine@{digest}")


def test_an_error_shows_no_more_than_the_beginning() -> None:
    with pytest.raises(ValueError, match="no image") as refused:
        Reference.parse("\x1b" * 100_000)
    assert len(str(refused.value)) < 700
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        (f"alpine:3@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        ("ghcr.io/owner/name:tag", "ghcr.io/owner/name:tag"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        # Without its port, it would be read as a repository of Docker Hub.
        ("registry:80/app", "registry:443/app:latest"),
        ("localhost:443/app", "localhost/app:latest"),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert str(Reference.parse(text)) == shown
    assert Reference.parse(shown) == Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("alpine", HUB, 443),
        ("localhost:5000/app", "localhost", 5000),
        ("[::1]/app", "::1", 443),
        ("[2001:db8::1]:5000/app", "2001:db8::1", 5000),
    ],
)
def test_where_it_is(text: str, host: str, port: int) -> None:
    assert Reference.parse(text).address == (host, port)


@given(st.text("abA04.:/@-_[]", max_size=30) | st.text(max_size=20))
def test_whatever_is_typed_is_an_image_or_refused(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except ValueError:
        return
    assert Reference.parse(str(parsed)) == parsed
    assert re.fullmatch(r"[a-z0-9.\[\]:-]+", parsed.registry)
    assert parsed.address[1] in range(1, 65536)


def test_docker_hub_is_familiar_by_another_name() -> None:
    assert familiar(HUB) == "docker.io"
    assert familiar("ghcr.io") == "ghcr.io"
    assert familiar("registry") == "registry:443"
