"""Where the store is of no help, and where it is not trusted before it was looked at."""

import errno

import pytest

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import StoreError

from ..doubles import HUB
from ..hub import Hub
from .proxies import CONTENT, MISS, REPOSITORY, Proxy

# When the store fails.


async def test_a_blob_that_cannot_be_read_is_fetched_again(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    hub.asked()

    def failing(_: Digest) -> BlobReader:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(proxy.parts.store, "open", failing)
    again = await proxy.ask(digest)
    assert (again.how, again.body) == (MISS, CONTENT)
    assert hub.asked() == [f"GET {HUB}/{REPOSITORY} as anonymous"]


async def test_what_cannot_be_stored_passes(
    proxy: Proxy, hub: Hub, digest: Digest, caplog: pytest.LogCaptureFixture
) -> None:
    hub.coding = "gzip"
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert passed.flow in proxy.parts.under_way
    assert proxy.parts.unstored[passed.flow] == "upstream sent the blob gzip-encoded"
    assert f"blob {digest.short} passes through: upstream sent the blob gzip-encoded" in caplog.text


async def test_a_provenance_that_fails_lets_pass(
    proxy: Proxy, digest: Digest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> bool:
        raise StoreError("cannot use provenance.db: disk I/O error")

    await proxy.ask(digest)
    await proxy.settled()
    monkeypatch.setattr(proxy.parts.store.provenance, "delivered_by", failing)
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow] == "cannot use provenance.db: disk I/O error"
    assert f"blob {digest.short} passes through: cannot use provenance.db: disk I/O error" in caplog.text
