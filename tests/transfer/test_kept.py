"""When the secrets leave a flow: never before it is over, never after somebody kept it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import exceptions, flow, hooks, http, io
from mitmproxy.addons import save, savehar, view
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpRequestHook, HttpResponseHook
from mitmproxy.test import taddons, tflow

from addon.transfer import kept
from addon.transfer.dispatch import Dispatch

from ..doubles import mitmproxy_with, request_flow

SECRET = "correct-horse-battery"
CDN = "https://cdn.example/blob?Expires=1&Signature="


class Options:
    """Declares what `kept` asks for."""

    def load(self, loader: object) -> None:
        loader.add_option("registry_redact", bool, True, "for the test")  # type: ignore[attr-defined]


@pytest.fixture
def mitmproxy() -> Iterator[taddons.context]:
    with mitmproxy_with(Options(), save.Save(), savehar.SaveHar()) as running:
        dispatch = Dispatch(running.master.addons, kept.shield)
        dispatch.install()
        yield running
        running.options.update(save_stream_file=None, hardump="")


def secretive(**changes: object) -> http.HTTPFlow:
    """A flow full of secrets, which is under way."""
    made = request_flow("https://registry.example/v2/a/blobs/b", Authorization=f"Bearer {SECRET}")
    made.response = http.Response.make(307, b"", {"Location": CDN + SECRET})
    made.metadata["proxyauth"] = ("alice", SECRET)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def state(shown: http.HTTPFlow) -> str:
    return repr(shown.get_state())


async def trigger(mitmproxy: taddons.context, hook: hooks.Hook) -> None:
    await mitmproxy.master.addons.trigger_event(hook)


@pytest.mark.parametrize("ending", [HttpResponseHook, HttpErrorHook])
async def test_what_is_written_has_no_secrets_and_what_is_sent_has(
    mitmproxy: taddons.context, tmp_path: Path, ending: type[HttpResponseHook] | type[HttpErrorHook]
) -> None:
    file = tmp_path / "flows"
    mitmproxy.options.update(save_stream_file=str(file))
    shown = secretive(error=flow.Error(f"it said {SECRET}"))
    assert shown.response
    request, response, before = shown.request, shown.response, state(shown)
    await trigger(mitmproxy, HttpRequestHook(shown))
    await trigger(mitmproxy, ending(shown))
    assert (shown.request, shown.response) == (request, response)
    assert state(shown) == before
    mitmproxy.options.update(save_stream_file=None)
    assert SECRET.encode() not in file.read_bytes()
    with file.open("rb") as opened:
        (read,) = io.FlowReader(opened).stream()
    assert isinstance(read, http.HTTPFlow)
    assert read.request.headers["Authorization"] == "Bearer REDACTED"
    assert read.response
    assert read.response.headers["Location"] == CDN + "REDACTED"
    assert read.metadata["proxyauth"] == ["alice", "REDACTED"]
    assert read.error
    assert read.error.msg == "it said REDACTED"


async def test_everybody_else_sees_what_there_is(mitmproxy: taddons.context) -> None:
    seen = []

    class Other:
        def response(self, shown: http.HTTPFlow) -> None:
            seen.append(shown.request.headers["Authorization"])

    mitmproxy.master.addons.add(Other())
    await trigger(mitmproxy, HttpResponseHook(secretive()))
    assert seen == [f"Bearer {SECRET}"]


async def test_one_that_fails_while_it_looks_changes_nothing(
    mitmproxy: taddons.context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_self: object, _shown: http.HTTPFlow) -> None:
        raise exceptions.AddonHalt

    monkeypatch.setattr(save.Save, "response", failing)
    shown = secretive()
    before = state(shown)
    await trigger(mitmproxy, HttpResponseHook(shown))
    assert state(shown) == before


async def test_a_har_file_is_made_of_what_is_left(mitmproxy: taddons.context, tmp_path: Path) -> None:
    mitmproxy.options.update(hardump=str(tmp_path / "flows.har"))
    ended, under_way = secretive(), secretive()
    for each in (ended, under_way):
        await trigger(mitmproxy, HttpResponseHook(each))
    ended.live = False
    kept.over(ended)
    kept.release()
    await trigger(mitmproxy, hooks.DoneHook())
    written = (tmp_path / "flows.har").read_text()
    assert SECRET not in written
    assert written.count("Signature=REDACTED") >= 2
    assert SECRET in state(under_way)


async def test_a_flow_that_is_over_has_no_secrets(mitmproxy: taddons.context) -> None:
    ended = secretive()
    ended.backup()
    ended.request.headers["X"] = "edited"
    request, response = ended.request, ended.response
    kept.over(ended)
    assert SECRET not in state(ended)
    assert ended.request.headers["X"] == "edited"
    # Who holds the messages themselves has them whole.
    assert response
    assert SECRET in repr((request.get_state(), response.get_state()))
    before = ended.request, ended.response
    kept.over(ended)
    assert (ended.request, ended.response) == before


async def test_what_has_not_ended_is_written_without_secrets(mitmproxy: taddons.context, tmp_path: Path) -> None:
    file = tmp_path / "flows"
    mitmproxy.options.update(save_stream_file=str(file))
    under_way, other = secretive(response=None), tflow.ttcpflow()
    await trigger(mitmproxy, HttpRequestHook(under_way))
    mitmproxy.master.addons.get("save").tcp_start(other)
    kept.release()
    assert SECRET in state(under_way)
    mitmproxy.options.update(save_stream_file=None)
    assert SECRET.encode() not in file.read_bytes()
    with file.open("rb") as opened:
        assert {read.id for read in io.FlowReader(opened).stream()} == {under_way.id, other.id}


async def test_who_wants_to_see_secrets_can(mitmproxy: taddons.context, tmp_path: Path) -> None:
    file = tmp_path / "flows"
    mitmproxy.options.update(save_stream_file=str(file), registry_redact=False)
    shown = secretive()
    await trigger(mitmproxy, HttpResponseHook(shown))
    kept.over(shown)
    kept.release()
    mitmproxy.options.update(save_stream_file=None)
    assert SECRET in state(shown)
    assert SECRET.encode() in file.read_bytes()


def test_where_pulltap_is_not_loaded_nothing_is_redacted() -> None:
    with mitmproxy_with():
        shown = secretive()
        kept.over(shown)
        assert SECRET in state(shown)


async def test_the_flow_list_is_told(mitmproxy: taddons.context) -> None:
    listed = view.View()
    mitmproxy.master.addons.add(listed)
    ended = secretive()
    listed.add([ended])
    told: list[flow.Flow] = []

    def note(flow: flow.Flow) -> None:
        told.append(flow)

    listed.sig_view_update.connect(note)
    kept.over(ended)
    assert ended in told
    told.clear()
    kept.over(ended)
    assert not told, "nothing has changed"


def test_the_proxys_own_pages_are_kept_whole(mitmproxy: taddons.context) -> None:
    page = request_flow("http://127.0.0.1:3128/metrics?x=1")
    page.client_conn.sockname = ("127.0.0.1", 3128)
    page.response = http.Response.make(200, b"pulltap_hits 1\n")
    kept.over(page)
    assert page.response.raw_content == b"pulltap_hits 1\n"


# What a person repeats.


@pytest.mark.parametrize(
    ("replay", "ours", "left"), [("request", False, ""), ("request", True, SECRET), (None, False, SECRET)]
)
async def test_a_repeated_request_is_over_with_its_answer(
    mitmproxy: taddons.context, replay: str | None, ours: bool, left: str
) -> None:
    redaction = kept.Redaction(lambda _flow: ours)
    for ending in (redaction.response, redaction.error):
        repeated = secretive(is_replay=replay)
        ending(repeated)
        assert (SECRET in state(repeated)) == bool(left)


async def test_a_web_socket_is_over_when_it_is_closed(mitmproxy: taddons.context) -> None:
    closed = secretive()
    kept.Redaction(lambda _flow: False).websocket_end(closed)
    assert SECRET not in state(closed)


def test_a_repeated_request_goes_without_what_was_taken_out(mitmproxy: taddons.context) -> None:
    repeated = secretive(response=None)
    repeated.request.headers["Cookie"] = "a=b"
    kept.over(repeated)
    kept.revive(repeated)
    assert repeated.request.headers["Authorization"] == "Bearer REDACTED", "it was sent by a client"
    repeated.is_replay = "request"
    kept.revive(repeated)
    assert list(repeated.request.headers) == ["Host"]
