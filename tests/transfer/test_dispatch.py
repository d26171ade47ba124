"""Hooks that ask only those addons that have them: beside mitmproxy's own way to do it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager
from mitmproxy.test import taddons

from addon.transfer.dispatch import Dispatch

from ..doubles import mitmproxy_with


@dataclass
class PullHook(hooks.Hook):
    """A hook of this test."""

    seen: list[str]


@dataclass
class Addon:
    """Writes down that it was asked."""

    name: str
    error: BaseException | None = None
    addons: tuple["Addon", ...] = ()

    def pull(self, seen: list[str]) -> None:
        seen.append(self.name)
        if self.error is not None:
            raise self.error


class Waiting(Addon):
    async def pull(self, seen: list[str]) -> None:  # type: ignore[override]
        super().pull(seen)


class Deaf:
    """Has no such method."""

    name = "deaf"


@pytest.fixture(params=["mitmproxy's", "ours"])
def manager(request: pytest.FixtureRequest) -> Iterator[AddonManager]:
    with mitmproxy_with() as context:
        manager: AddonManager = context.master.addons
        if request.param == "ours":
            Dispatch(manager).install()
        yield manager


async def asked(manager: AddonManager) -> list[str]:
    seen: list[str] = []
    await manager.trigger_event(PullHook(seen))
    return seen


async def test_each_is_asked_in_turn(manager: AddonManager) -> None:
    manager.add(Addon("a"), Deaf(), Waiting("b"), Addon("c", addons=(Addon("d"), Waiting("e"))))
    for _ in range(2):
        assert await asked(manager) == ["a", "b", "c", "d", "e"]


async def test_those_that_come_and_go(manager: AddonManager) -> None:
    manager.add(Addon("a"))
    assert await asked(manager) == ["a"]
    late = Addon("b")
    manager.add(late)
    assert await asked(manager) == ["a", "b"]
    manager.remove(late)
    assert await asked(manager) == ["a"]
    manager.clear()
    assert await asked(manager) == []


async def test_one_that_fails_stops_nobody(manager: AddonManager, caplog: pytest.LogCaptureFixture) -> None:
    manager.add(Addon("a", RuntimeError("broken")), Waiting("b", RuntimeError("torn")), Addon("c"))
    for _ in range(2):
        assert await asked(manager) == ["a", "b", "c"]
    said = [record.getMessage().splitlines()[0] for record in caplog.records]
    assert said == ["Addon error: broken", "Addon error: torn"] * 2


async def test_one_that_halts_stops_the_rest(manager: AddonManager, caplog: pytest.LogCaptureFixture) -> None:
    manager.add(Addon("a", exceptions.AddonHalt()), Addon("b"))
    assert await asked(manager) == ["a"]
    assert not caplog.records


async def test_a_hook_that_is_none_is_reported(manager: AddonManager, caplog: pytest.LogCaptureFixture) -> None:
    wrong = Addon("a")
    wrong.pull = "nothing"  # type: ignore[assignment, method-assign]
    manager.add(wrong, Addon("b"))
    assert await asked(manager) == ["b"]
    assert "handler pull" in caplog.text


async def test_it_remembers_until_it_is_told_to_forget() -> None:
    with mitmproxy_with() as context:
        dispatch = Dispatch(context.master.addons)
        dispatch.install()
        addon = Addon("a")
        context.master.addons.add(addon)
        assert await asked(context.master.addons) == ["a"]
        addon.addons = (Addon("b"),)
        assert await asked(context.master.addons) == ["a"]
        dispatch.forget()
        assert await asked(context.master.addons) == ["a", "b"]


async def test_what_stands_in_the_place_of_a_hook() -> None:
    asked_for = []

    def shield(addon: object, name: str, hook: Callable[..., object]) -> Callable[..., object]:
        asked_for.append((addon, name))

        def shielded(seen: list[str]) -> None:
            seen.append("shielded")
            hook(seen)

        return shielded if addon is inner else hook

    with mitmproxy_with() as context:
        inner = Addon("b")
        outer = Addon("a", addons=(inner,))
        Dispatch(context.master.addons, shield).install()
        context.master.addons.add(outer)
        assert await asked(context.master.addons) == ["a", "shielded", "b"]
        assert [pair for pair in asked_for if pair[1] == "pull"] == [(outer, "pull"), (inner, "pull")]


def test_the_context_of_the_tests_is_mitmproxys_own() -> None:
    # Without this, the rows above would compare a double with itself.
    with taddons.context() as context:
        assert type(context.master.addons).trigger_event is AddonManager.trigger_event
