"""The options that Pulltap adds to mitmproxy's."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mitmproxy import optmanager

from addon.settings import Access, Auth, ConfigError, Settings, check_file, read_file
from addon.ui.options import OPTIONS, of_any_tool, parse_options

DEFAULTS = {name: default for name, (_, default, _) in OPTIONS.items()}
TYPES = {name: kind for name, (kind, _, _) in OPTIONS.items()}


def parsed(registries: object = None, **values: Any) -> Settings:
    return parse_options({**DEFAULTS, **values}, registries)


@pytest.mark.parametrize("name", OPTIONS)
def test_mitmproxy_takes_each_default_for_its_type(name: str) -> None:
    kind, default, text = OPTIONS[name]
    manager = optmanager.OptManager()
    manager.add_option(name, kind, default, text)
    assert getattr(manager, name) == default


def test_the_defaults_are_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/alice")
    settings = parsed()
    assert (settings.max_size, settings.min_free) == (50 << 30, 1 << 30)
    assert (settings.store, settings.access) == (Path("/var/cache/alice/pulltap"), Access.CHECK)
    assert (settings.max_fills, settings.fill_connections, settings.access_grace) == (16, 4, 3600)
    assert (settings.docker_config, settings.clients) == (None, ())
    assert settings.registries["registry-1.docker.io"].auth is Auth.INJECT


def test_each_option_means_something() -> None:
    settings = parsed(
        {"ghcr.io": {"ping": "local"}},
        registry_hosts=["quay.io"],
        registry_store="/srv/store",
        registry_store_max_size="7m",
        registry_store_min_free="3k",
        registry_access="trust",
        registry_access_grace=5,
        registry_max_fills=6,
        registry_fill_connections=7,
        registry_docker_config="/dev/null",
        registry_clients=["10.0.0.0/8"],
    )
    assert (settings.max_size, settings.min_free) == (7 << 20, 3 << 10)
    assert (settings.store, settings.access) == (Path("/srv/store"), Access.TRUST)
    assert (settings.access_grace, settings.max_fills, settings.fill_connections) == (5, 6, 7)
    assert (settings.docker_config, list(map(str, settings.clients))) == (Path("/dev/null"), ["10.0.0.0/8"])
    assert [(host, registry.ping) for host, registry in settings.registries.items()] == [
        ("quay.io", "upstream"),
        ("ghcr.io", "local"),
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), ("512b", 512), ("1k", 1024), ("50g", 50 << 30), ("2t", 2 << 40), ("50G", None)]
    + [(text, None) for text in ("", "much", "1.5g", "g", "50gb", "-1")],
)
@pytest.mark.parametrize("name", ["registry_store_max_size", "registry_store_min_free"])
def test_sizes(name: str, text: str, size: int | None) -> None:
    if size is None or (size == 0 and name == "registry_store_max_size"):
        with pytest.raises(ConfigError, match=f"{name} is to be a size such as") as refused:
            parsed(**{name: text})
        assert refused.value.keys == (name,)
    else:
        settings = parsed(**{name: text})
        assert {"max": settings.max_size, "min": settings.min_free}[name.split("_")[2]] == size


def test_the_shipped_file_shows_each_default() -> None:
    file = read_file(Path(__file__).parents[2] / "mitm-config.yaml")
    assert check_file(file, TYPES) == []
    # As comments, ready to be changed.
    text = re.sub(r"^# (?=registry_|  - )", "", file.path.read_text(), flags=re.MULTILINE)
    shown = {name: value for name, value in yaml.safe_load(text).items() if name.startswith("registry_")}
    assert set(shown) == set(OPTIONS)
    examples = ("registry_store", "registry_docker_config", "registry_clients")
    assert {name: value for name, value in shown.items() if name not in examples} == {
        name: default for name, default in DEFAULTS.items() if name not in examples
    }


def test_options_of_other_tools_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    known = of_any_tool()
    assert {"web_port", "web_open_browser", "console_layout", "flow_detail", "keepserving", "view_filter"} <= known
    assert not {"registry_hosts", "listen_port", "nothing"} & known
    # Nothing is shown, or listens to the log, that was not asked for.
    assert capsys.readouterr() == ("", "")


def test_a_look_at_them_leaves_nothing_that_listens() -> None:
    before = list(logging.getLogger().handlers)
    of_any_tool()
    assert logging.getLogger().handlers == before
