"""Copies of the project: each test runs run.sh in one of its own, under bash and under dash."""

import shutil
from pathlib import Path

import pytest

from .checkout import ROOT, TOOL, TOOLS, Checkout, script


@pytest.fixture(params=["bash", "dash"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Checkout:
    """A checkout, and no Python anywhere."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    root = tmp_path / "a checkout"
    (root / "addon").mkdir(parents=True)
    shutil.copy(ROOT / "run.sh", root)
    for name in ("mitm-config.yaml", "requirements.txt", "requirements-dev.txt", "addon/main.py"):
        (root / name).write_text(f"# {name}\n")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(found)
    home = tmp_path / "home"
    home.mkdir()
    log = tmp_path / "calls"
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(home), "LOG": str(log)}
    env["TOOL"] = str(script(tmp_path / "tool", TOOL))
    return Checkout(shell, root, log, env)


@pytest.fixture
def checkout(bare: Checkout) -> Checkout:
    """A checkout, and Python 3.13 on PATH."""
    bare.python("bin/python3.13")
    return bare
