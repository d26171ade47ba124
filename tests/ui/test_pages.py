"""The proxy's own pages."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mitmproxy import flow as mitmflow
from mitmproxy import http
from mitmproxy.proxy import mode_specs

from addon.parts import Parts
from addon.transfer.target import DIRECT
from addon.ui.pages import CA, Pages, ca_path

from ..doubles import mitmproxy_with, nothing_left, request_flow, settings


@pytest.fixture
async def pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Pages]:
    async with nothing_left(caplog):
        with mitmproxy_with(confdir=str(tmp_path)):
            parts = Parts(settings(store=str(tmp_path / "store")))
            yield Pages(parts)
            await parts.close()


def to_the_proxy(path: str, method: str = "GET") -> http.HTTPFlow:
    flow = request_flow(f"http://127.0.0.1:3128{path}", method)
    flow.client_conn.sockname = ("127.0.0.1", 3128)
    return flow


async def answer(pages: Pages, path: str, method: str = "GET") -> http.Response:
    flow = to_the_proxy(path, method)
    await pages.request(flow)
    assert flow.response
    assert flow.response.headers["Cache-Control"] == "no-store"
    return flow.response


async def test_the_index_names_the_others(pages: Pages) -> None:
    for path in ("/", "/?x"):
        response = await answer(pages, path)
        assert response.status_code == 200
        assert all(page in (response.text or "") for page in ("/healthz", "/ca.pem"))


async def test_the_ca(pages: Pages) -> None:
    missing = await answer(pages, "/ca.pem")
    assert (missing.status_code, missing.text) == (
        503,
        "the CA certificate cannot be read: No such file or directory\n",
    )
    ca_path().write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    response = await answer(pages, "/ca.pem")
    assert (response.status_code, response.content) == (200, b"-----BEGIN CERTIFICATE-----\n")
    assert response.headers["Content-Type"] == "application/x-pem-file"
    assert ca_path().name == CA


async def test_health_is_a_store_that_can_be_written(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ((await answer(pages, "/healthz")).status_code, (await answer(pages, "/healthz")).text) == (200, "ok\n")

    def failing() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pages._parts.store, "check_writable", failing)
    response = await answer(pages, "/healthz")
    assert response.status_code == 503
    assert response.text == f"the store {pages._parts.store.root} cannot be written: the disk is read-only\n"


@pytest.mark.parametrize("path", ["/other", "/healthz/", "//", "/ca.pem/x", "/HEALTHZ"])
async def test_there_are_no_others(pages: Pages, path: str) -> None:
    response = await answer(pages, path)
    assert (response.status_code, response.text) == (404, "no such page; there are /, /healthz, /ca.pem\n")


@pytest.mark.parametrize("path", ["/", "/healthz", "/ca.pem"])
async def test_they_are_only_read(pages: Pages, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = await answer(pages, path, method)
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")
    assert (await answer(pages, "/healthz", "HEAD")).status_code == 200


@pytest.mark.parametrize("what", ["another host", "redirected", "answered", "failed", "replayed"])
async def test_requests_that_are_left_alone(pages: Pages, what: str) -> None:
    flow, given = to_the_proxy("/"), None
    match what:
        case "another host":
            flow.request.host = "192.0.2.1"
        case "redirected":
            flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("transparent")
        case "answered":
            flow.response = given = http.Response.make(418)
        case "failed":
            flow.error = mitmflow.Error("gone")
        case "replayed":
            flow.live = False
    await pages.request(flow)
    assert flow.response is given


@pytest.mark.parametrize("path", ["/", "/ca.pem", "/healthz", "/other"])
async def test_a_name_that_somebody_led_here_gets_no_page(pages: Pages, path: str) -> None:
    for host, status in (("attacker.example", 421), ("192.0.2.1", 200), ("proxy", 200)):
        flow = request_flow(f"http://{host}:3128{path}")
        flow.metadata[DIRECT] = True
        await pages.request(flow)
        assert flow.response
        assert (flow.response.status_code == 421) == (status == 421)
        assert flow.response.headers["Cache-Control"] == "no-store"
        if status == 421:
            assert "a name that is not the proxy's" in (flow.response.text or "")
