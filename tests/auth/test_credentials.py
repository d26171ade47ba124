import asyncio
import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.auth import credentials
from addon.auth.credentials import Credential, CredentialError, DockerConfig

from ..doubles import Clock

HUB = "registry-1.docker.io"
HUB_ADDRESS = "https://index.docker.io/v1/"


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class Files:
    """A `config.json`, and credential helpers that write down what they are asked."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.path = folder / "config.json"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.asked = folder / "asked"
        self.config = DockerConfig(self.path, clock)

    def write(self, content: object) -> DockerConfig:
        text = content if isinstance(content, str) else json.dumps(content)
        # As Docker does it, in one step; the length alone would not tell each of two versions from the other.
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        stamp = self.path.stat().st_mtime_ns + 1_000_000 if self.path.exists() else fresh.stat().st_mtime_ns
        os.utime(fresh, ns=(stamp, stamp))
        fresh.replace(self.path)
        return self.config

    def helper(self, name: str, script: str) -> None:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f'#!/bin/sh\nread -r address\necho "{name} $* $address" >>"{self.asked}"\n{script}\n')
        path.chmod(0o755)

    @property
    def questions(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def files(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Files:
    files = Files(tmp_path, clock)
    monkeypatch.setenv("PATH", f"{files.bin}{os.pathsep}{os.environ['PATH']}")
    return files


def says(user: str, secret: str) -> str:
    return f"echo '{json.dumps({'ServerURL': 'x', 'Username': user, 'Secret': secret})}'"


NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"


# Entries of the file itself.


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("GHCR.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://ghcr.io/", "ghcr.io"),
        ("https://ghcr.io/v1/", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("ghcr.io:443", "ghcr.io"),
        ("https://ghcr.io:443/v2/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("[::1]:5000", "[::1]:5000"),
        (HUB_ADDRESS, HUB),
        ("https://index.docker.io/v1", HUB),
        ("index.docker.io", HUB),
        ("docker.io", HUB),
        (HUB, HUB),
        (f"https://{HUB}/v2/", HUB),
        ("docker.io", "index.docker.io"),
    ],
)
async def test_addresses_that_mean_a_registry(files: Files, address: str, host: str) -> None:
    config = files.write({"auths": {"other.example": {"auth": "eDp5"}, address: {"auth": encoded("alice", "secret")}}})
    assert await config.find(host) == Credential("alice", "secret")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("ghcr.io", "gcr.io"),
        ("ghcr.io", "ghcr.io.evil.example"),
        ("evil.example/ghcr.io", "ghcr.io"),
        ("https://evil.example/https://ghcr.io", "ghcr.io"),
        ("ghcr.io@evil.example", "ghcr.io"),
        ("localhost:5000", "localhost:5001"),
        ("localhost:5000", "localhost"),
        ("localhost", "localhost:5000"),
        ("auth.docker.io", HUB),
        ("docker.io", "ghcr.io"),
        (HUB_ADDRESS, "mirror.docker.io"),
    ],
)
async def test_addresses_that_mean_another(files: Files, address: str, host: str) -> None:
    config = files.write({"auths": {address: {"auth": encoded("alice", "secret")}}})
    assert await config.find(host) is None


@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        ({"auth": encoded("alice", "secret")}, Credential("alice", "secret")),
        ({"auth": encoded("alice", "a:b:c")}, Credential("alice", "a:b:c")),
        ({"auth": encoded("álice", "pässword")}, Credential("álice", "pässword")),
        ({"auth": encoded("alice", "")}, Credential("alice", "")),
        # Docker pads with zeros what it once encoded in a buffer.
        ({"auth": encoded("alice", "secret\0\0")}, Credential("alice", "secret")),
        ({"username": "alice", "password": "secret"}, Credential("alice", "secret")),
        ({"username": "x", "password": "y", "auth": encoded("alice", "secret")}, Credential("alice", "secret")),
        ({"identitytoken": "idt"}, Credential("", identity_token="idt")),
        (
            {"auth": encoded("00000000-0000", ""), "identitytoken": "idt"},
            Credential("00000000-0000", identity_token="idt"),
        ),
        ({"email": "alice@example.com"}, None),
        ({"auth": ""}, None),
        ({"auth": encoded("", "")}, None),
        ({}, None),
        (None, None),
        ("alice", None),
    ],
)
async def test_what_an_entry_holds(files: Files, entry: object, credential: Credential | None) -> None:
    assert await files.write({"auths": {"ghcr.io": entry}}).find("ghcr.io") == credential


@pytest.mark.parametrize(
    "auth",
    [
        "secret!",
        "secre",
        "c2VjcmV0",
        "sécret",
        base64.b64encode(b"\xffsecret:\xfe").decode(),
        encoded("alice", "secret")[:-1],
        encoded("alice", "secret") + "\n",
        ["secret"],
    ],
)
async def test_a_broken_entry_is_an_error_that_tells_no_secret(files: Files, auth: object) -> None:
    with pytest.raises(CredentialError, match=r"config\.json: the auth entry for ghcr\.io") as refused:
        await files.write({"auths": {"ghcr.io": {"auth": auth}}}).find("ghcr.io")
    assert "secret" not in str(refused.value)


async def test_an_empty_entry_hides_no_other(files: Files) -> None:
    config = files.write(
        {"auths": {"https://ghcr.io": {}, "https://ghcr.io/v1/": {"auth": encoded("alice", "secret")}}}
    )
    assert await config.find("ghcr.io") == Credential("alice", "secret")


async def test_the_registrys_own_key_goes_before_others_on_its_host(files: Files) -> None:
    # Docker Desktop keeps what its login in the browser gave it under such addresses.
    entries = {
        f"{HUB_ADDRESS}access-token": {"auth": encoded("alice", "short-lived")},
        HUB_ADDRESS: {"auth": encoded("alice", "secret")},
        f"{HUB_ADDRESS}refresh-token": {"auth": encoded("alice", "..")},
    }
    assert await files.write({"auths": entries}).find(HUB) == Credential("alice", "secret")


# The file.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "is no Docker config"),
        ("null", "is no Docker config"),
        ('{"auths": []}', "auths is to be a mapping"),
        ('{"auths": "x"}', "auths is to be a mapping"),
        ('{"credHelpers": ["x"]}', "credHelpers is to be a mapping"),
    ],
)
async def test_a_file_that_is_no_docker_config(files: Files, text: str, message: str) -> None:
    config = files.write(text)
    with pytest.raises(CredentialError, match=f"config.json.*{message}"):
        config.check()
    with pytest.raises(CredentialError, match=message):
        await config.find(HUB)


async def test_a_file_that_is_not_text(files: Files) -> None:
    files.path.write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialError, match="is not JSON"):
        await files.config.find(HUB)


async def test_a_file_that_is_not_there(files: Files) -> None:
    with pytest.raises(CredentialError, match=r"cannot read .*config\.json: No such file"):
        await files.config.find(HUB)


@pytest.mark.parametrize("content", [{}, {"auths": None, "credHelpers": None, "credsStore": None}, {"psFormat": "x"}])
async def test_a_file_without_credentials(files: Files, content: object) -> None:
    config = files.write(content)
    assert await config.find(HUB) is None


async def test_a_login_needs_no_restart(files: Files) -> None:
    config = files.write({})
    assert await config.find(HUB) is None
    files.write({"auths": {HUB_ADDRESS: {"auth": encoded("alice", "one")}}})
    assert await config.find(HUB) == Credential("alice", "one")
    # Of the same length.
    files.write({"auths": {HUB_ADDRESS: {"auth": encoded("alice", "two")}}})
    assert await config.find(HUB) == Credential("alice", "two")
    files.path.unlink()
    with pytest.raises(CredentialError):
        await config.find(HUB)


# Helpers.


async def test_a_helper_is_asked_as_docker_asks_it(files: Files) -> None:
    files.helper("store", says("alice", "secret"))
    config = files.write({"credsStore": "store"})
    assert await config.find("ghcr.io") == Credential("alice", "secret")
    assert await config.find(HUB) == Credential("alice", "secret")
    assert files.questions == ["store get ghcr.io", f"store get {HUB_ADDRESS}"]


@pytest.mark.parametrize(
    ("content", "host", "user"),
    [
        # The registry's own helper goes before the store, and that before the file.
        ({"credHelpers": {"ghcr.io": "own"}, "credsStore": "store"}, "ghcr.io", "own"),
        ({"credHelpers": {"gcr.io": "own"}, "credsStore": "store"}, "ghcr.io", "store"),
        ({"credHelpers": {"https://ghcr.io": "own"}}, "ghcr.io", "own"),
        ({"credHelpers": {"docker.io": "own"}}, HUB, "own"),
        ({"credHelpers": {HUB_ADDRESS: "own"}}, HUB, "own"),
        ({"credHelpers": {"gcr.io": "own"}}, "ghcr.io", "file"),
        ({"credsStore": ""}, "ghcr.io", "file"),
        # An empty name takes a registry out of the store.
        ({"credHelpers": {"ghcr.io": ""}, "credsStore": "store"}, "ghcr.io", "file"),
    ],
)
async def test_which_helper_is_asked(files: Files, content: dict[str, object], host: str, user: str) -> None:
    for name in ("own", "store"):
        files.helper(name, says(name, "secret"))
    config = files.write({**content, "auths": {"ghcr.io": {"auth": encoded("file", "secret")}}})
    assert await config.find(host) == Credential(user, "secret")


async def test_an_identity_token_from_a_helper(files: Files) -> None:
    files.helper("store", says("<token>", "idt"))
    found = await files.write({"credsStore": "store"}).find(HUB)
    assert found == Credential("<token>", identity_token="idt")


async def test_a_helper_that_has_none(files: Files) -> None:
    files.helper("store", NOT_FOUND)
    config = files.write({"credsStore": "store", "auths": {"ghcr.io": {"auth": encoded("alice", "secret")}}})
    assert await config.find("ghcr.io") is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo secret; exit 1", r"docker-credential-store failed for ghcr\.io \(exit status 1\)"),
        ("echo secret >&2; exit 3", "exit status 3"),
        ("kill -9 $$", "exit status -9"),
        # What `pass` says where gpg is missing: that is no answer to the question.
        ("echo 'exec: \"gpg\": executable file not found in $PATH: secret'; exit 1", "exit status 1"),
        ("echo secret", "not of the helpers' protocol"),
        ("true", "not of the helpers' protocol"),
        ("echo '[\"secret\"]'", "not of the helpers' protocol"),
        ("echo '\"secret\"'", "not of the helpers' protocol"),
        ("echo null", "not of the helpers' protocol"),
        ('echo \'{"Username": "secret"}\'', "not of the helpers' protocol"),
        ('echo \'{"Secret": "secret"}\'', "not of the helpers' protocol"),
        ("printf '\\377'", "not of the helpers' protocol"),
    ],
)
async def test_a_helper_that_fails(files: Files, script: str, message: str) -> None:
    files.helper("store", script)
    with pytest.raises(CredentialError, match=message) as failed:
        await files.write({"credsStore": "store"}).find("ghcr.io")
    assert "secret" not in str(failed.value)


async def test_a_helper_that_does_not_listen(files: Files) -> None:
    path = files.bin / "docker-credential-store"
    path.write_text(f"#!/bin/sh\nexec <&-\n{says('alice', 'secret')}\n")
    path.chmod(0o755)
    assert await files.write({"credsStore": "store"}).find("ghcr.io") == Credential("alice", "secret")


async def test_a_helper_without_a_user(files: Files) -> None:
    files.helper("store", says("", ""))
    assert await files.write({"credsStore": "store"}).find("ghcr.io") is None


async def test_a_helper_that_is_not_there(files: Files) -> None:
    with pytest.raises(
        CredentialError, match=r"cannot run docker-credential-gone, which .*config\.json names: No such"
    ):
        await files.write({"credsStore": "gone"}).find("ghcr.io")


async def test_a_helper_that_is_no_program(files: Files) -> None:
    (files.bin / "docker-credential-store").write_text("")
    with pytest.raises(CredentialError, match="cannot run docker-credential-store"):
        await files.write({"credsStore": "store"}).find("ghcr.io")


async def test_a_name_is_no_path(files: Files) -> None:
    files.helper("store", says("alice", "secret"))
    (files.bin / "docker-credential-x").mkdir()
    with pytest.raises(CredentialError, match="is no name of a credential helper"):
        await files.write({"credsStore": "x/../docker-credential-store"}).find("ghcr.io")
    assert files.questions == []


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 60",
        # The shell's child holds the output open, and would outlive the shell.
        "sleep 60; true",
        "sleep 60 & wait",
        "sleep 60 &",
    ],
)
async def test_a_helper_that_hangs_is_ended_with_all_that_it_started(
    files: Files, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    alive = files.asked.with_name("alive")
    os.mkfifo(alive)
    # Whoever has the pipe open for writing lives; reading ends with the last of them.
    reading = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    files.helper("store", f'exec 3>"{alive}"\n{script}')
    monkeypatch.setattr(credentials, "_HELPER_SECONDS", 0.2)
    with pytest.raises(CredentialError, match="docker-credential-store gave no answer within"):
        await files.write({"credsStore": "store"}).find("ghcr.io")
    async with asyncio.timeout(30):
        assert await asyncio.to_thread(os.read, reading, 1) == b""
    os.close(reading)


async def test_an_answer_is_kept_for_five_minutes(files: Files, clock: Clock) -> None:
    files.helper("store", says("alice", "secret"))
    config = files.write({"credsStore": "store"})
    for seconds, asked in ((0, 1), (299, 1), (1, 2), (299, 2)):
        clock.now += seconds
        assert await config.find("ghcr.io") == Credential("alice", "secret")
        assert len(files.questions) == asked


async def test_that_there_is_none_is_kept_as_well(files: Files, clock: Clock) -> None:
    files.helper("store", NOT_FOUND)
    config = files.write({"credsStore": "store"})
    for _ in range(3):
        assert await config.find("ghcr.io") is None
    assert len(files.questions) == 1
    clock.now += 300
    files.helper("store", says("alice", "secret"))
    assert await config.find("ghcr.io") == Credential("alice", "secret")


async def test_a_failure_is_not_kept(files: Files) -> None:
    files.helper("store", "exit 1")
    config = files.write({"credsStore": "store"})
    with pytest.raises(CredentialError):
        await config.find("ghcr.io")
    files.helper("store", says("alice", "secret"))
    assert await config.find("ghcr.io") == Credential("alice", "secret")


async def test_a_login_with_a_helper_needs_no_restart(files: Files) -> None:
    files.helper("store", NOT_FOUND)
    config = files.write({"credsStore": "store"})
    assert await config.find("ghcr.io") is None
    # Docker then puts the registry into the file, without its credential.
    files.helper("store", says("alice", "secret"))
    files.write({"credsStore": "store", "auths": {"ghcr.io": {}}})
    assert await config.find("ghcr.io") == Credential("alice", "secret")


async def test_a_hundred_at_once_start_one_helper(files: Files) -> None:
    files.helper("store", says("alice", "secret"))
    config = files.write({"credsStore": "store"})
    found = await asyncio.gather(*(config.find("ghcr.io") for _ in range(100)))
    assert set(found) == {Credential("alice", "secret")}
    assert len(files.questions) == 1


# The credential.


@pytest.mark.parametrize(
    ("credential", "userpass"),
    [
        (Credential("alice", "secret"), b"alice:secret"),
        (Credential("alice", "a:b"), b"alice:a:b"),
        (Credential("álice", "€"), "álice:€".encode()),
        (Credential("alice"), b"alice:"),
    ],
)
def test_a_basic_header(credential: Credential, userpass: bytes) -> None:
    scheme, _, token = credential.basic().partition(" ")
    assert (scheme, base64.b64decode(token, validate=True)) == ("Basic", userpass)


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_what_is_shown_of_a_credential_is_no_secret(show: Callable[[Credential], str]) -> None:
    assert "secret" not in show(Credential("alice", "secret-password", "secret-token"))
    assert "alice" in show(Credential("alice"))
