"""run.sh itself: what shellcheck says of it, and whether a new checkout sets itself up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .checkout import ROOT, SHIM, script


@pytest.mark.parametrize(("file", "dialect"), [("run.sh", "bash"), ("run.sh", "dash"), (".ci/run", "bash")])
def test_shellcheck_has_nothing_to_say(file: str, dialect: str) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        assert "CI" not in os.environ, "CI must have shellcheck"
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, f"--shell={dialect}", ROOT / file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_new_checkout_sets_itself_up(tmp_path: Path, installer: str) -> None:
    """The real lock files, with hashes, from the network (or the installer's cache)."""
    own = tmp_path / "bin"
    script(own / "uv", SHIM)
    if installer == "uv":
        uv = shutil.which("uv")
        if uv is None or subprocess.run([uv, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("uv is not installed")
        script(own / "uv", f'#!/bin/sh\nexec "{uv}" "$@"\n')
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("run.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "addon", root / "addon", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "mitm-config.yaml").touch()
    (tmp_path / "home").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PULLTAP_", "XDG_", "PYTHON"))}
    env |= {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{own}:/usr/bin:/bin:/usr/sbin:/sbin",
        "PULLTAP_PYTHON": f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}",
    }

    def run(*args: str) -> str:
        return subprocess.run(args, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert "Mitmproxy: 12." in run(str(root / "run.sh"), "--version")
    run(str(root / ".venv/bin/python"), "-P", "-c", "import addon")
    assert '"blobs": 0' in run(str(root / "run.sh"), "store", "stats", "--json")
    assert "pytest" in run(str(root / "run.sh"), "test", "--version")
