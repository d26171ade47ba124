"""Which Python run.sh takes, and how it makes the environment: once, whoever starts at the same time."""

import shutil
import subprocess
from pathlib import Path

import pytest

from .checkout import SHIM, UV, Checkout, script, wait_for

# --- which Python ----------------------------------------------------------------------------------------------------


def test_takes_the_newest_python_that_runs(bare: Checkout) -> None:
    script(bare.root.parent / "bin/python3.14", SHIM)
    for minor in (13, 12):
        bare.python(f"bin/python3.{minor}", f"3.{minor}")
    bare.output()
    assert (bare.root / ".venv/lib/python3.13").is_dir()


@pytest.mark.parametrize("name", ["python3", "python"])
def test_takes_a_python_without_a_number(bare: Checkout, name: str) -> None:
    bare.python(f"bin/{name}", "3.14")
    bare.output()


@pytest.mark.parametrize("root", [None, "pyenv root"])
def test_finds_pyenvs_python_behind_a_broken_shim(bare: Checkout, root: str | None) -> None:
    for shim in ("python3", "python3.12", "python3.13"):
        script(bare.root.parent / "bin" / shim, SHIM)
    bare.python(f"{root or 'home/.pyenv'}/versions/3.12.1/bin/python3.12", "3.12")
    bare.python(f"{root or 'home/.pyenv'}/versions/3.13.0/bin/python3.13", "3.13")
    if root:
        bare.env["PYENV_ROOT"] = str(bare.root.parent / root)
    bare.output()
    assert (bare.root / ".venv/lib/python3.13").is_dir()


def test_asks_uv_last(bare: Checkout) -> None:
    script(bare.root.parent / "bin/uv", UV)
    python = bare.python("uv/python3.13")
    bare.output(UV_HAS=str(python))
    assert (bare.root / ".venv/pulltap.python").read_text() == f"{python}\n"


def test_without_a_python_it_says_what_it_tried_and_the_ways_out(bare: Checkout) -> None:
    bare.python("bin/python3", "3.11")
    script(bare.root.parent / "bin/python3.13", SHIM)
    complaint = bare.complaint()
    assert f"{bare.root.parent}/bin/python3 is Python 3.11\n" in complaint
    assert f"{bare.root.parent}/bin/python3.13 does not run\n" in complaint
    assert f"{bare.env['HOME']}/.pyenv/versions" in complaint
    assert "uv is not on PATH" in complaint
    assert "PULLTAP_PYTHON=" in complaint
    script(bare.root.parent / "bin/uv", UV)
    assert "uv could not get one either" in bare.complaint()


def test_a_python_without_ensurepip_needs_uv(bare: Checkout) -> None:
    python = bare.python("bin/python3.13")
    script(python, python.read_text().replace('import ensurepip") ;;', 'import ensurepip") exit 1 ;;'))
    assert "apt install python3.13-venv" in bare.complaint()
    script(bare.root.parent / "bin/uv", UV)
    bare.output()


def test_the_named_python_is_taken_and_no_other(checkout: Checkout) -> None:
    mine = checkout.python("my own/python", "3.12")
    checkout.output(PULLTAP_PYTHON=str(mine))
    assert (checkout.root / ".venv/lib/python3.12").is_dir()
    checkout.output()  # it does for a start that names none
    assert len(checkout.calls("-I -m venv")) == 1
    checkout.output(PULLTAP_PYTHON="python3.13")
    assert (checkout.root / ".venv/lib/python3.13").is_dir()
    assert "is Python 3.9" in checkout.complaint(PULLTAP_PYTHON=str(checkout.python("old", "3.9")))
    assert "there is no /nowhere" in checkout.complaint(PULLTAP_PYTHON="/nowhere")
    assert (checkout.root / ".venv/lib/python3.13").is_dir()


# --- the environment -------------------------------------------------------------------------------------------------


def test_only_the_first_start_builds(checkout: Checkout) -> None:
    first = checkout.run()
    assert "setting up the environment in .venv" in first.stderr
    assert len(first.stderr.splitlines()) == 1
    assert [call.split()[2] for call in checkout.calls("-I -m")] == ["venv", "pip"]
    pth = checkout.root / ".venv/lib/python3.13/site-packages/pulltap.pth"
    assert pth.read_text() == f"{checkout.root}\n"

    before = checkout.calls()
    second = checkout.run()
    assert second.stdout == first.stdout
    assert second.stderr == ""
    (call,) = checkout.calls()[len(before) :]
    assert call.startswith("-P -m addon.ui.launch mitmdump ")


def test_uv_is_used_where_it_runs(checkout: Checkout) -> None:
    uv = script(checkout.root.parent / "bin/uv", UV)
    checkout.output()
    venv = checkout.root / ".venv"
    python = checkout.root.parent / "bin/python3.13"
    pip = f"uv --directory {checkout.root} pip install --python {venv}/bin/python --compile-bytecode"
    assert checkout.calls("uv")[1:] == [
        f"uv venv --no-project --python {python} {venv}",
        f"{pip} --require-hashes -r requirements.txt",
    ]
    shutil.rmtree(venv)
    script(uv, SHIM)
    checkout.output()
    assert checkout.calls("-I -m pip install --")[0].endswith(f"--require-hashes -r {checkout.root}/requirements.txt")


def test_the_test_tools_are_added_once_and_only_for_tests(checkout: Checkout) -> None:
    checkout.output()
    assert not [call for call in checkout.calls() if "requirements-dev" in call]
    for _ in range(2):
        checkout.output("test")
        checkout.output()
    assert len(checkout.calls("-I -m venv")) == 1
    assert len([call for call in checkout.calls() if "requirements-dev" in call]) == 1


@pytest.mark.parametrize("first", [(), ("test",)])
def test_a_changed_lock_file_builds_anew(checkout: Checkout, first: tuple[str, ...]) -> None:
    checkout.output(*first)
    (checkout.root / "requirements.txt").write_text("# newer\n")
    for _ in range(2):
        checkout.output()
    assert len(checkout.calls("-I -m venv")) == 2
    checkout.output("test")
    (checkout.root / "requirements-dev.txt").write_text("# newer\n")
    for _ in range(2):
        checkout.output("test")
    assert len(checkout.calls("-I -m venv")) == 3


def test_a_moved_checkout_builds_anew(checkout: Checkout) -> None:
    checkout.output()
    checkout.root = checkout.root.rename(checkout.root.parent / "moved")
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 2


def test_a_python_that_is_gone_or_changed_builds_anew(checkout: Checkout) -> None:
    checkout.output()
    python = checkout.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere")
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 2
    (checkout.root / ".venv/pyvenv.cfg").write_text("version = 3.13.9\n")
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 3


def test_a_failed_build_shows_why_and_counts_for_nothing(checkout: Checkout) -> None:
    fail = Path(f"{checkout.log}.fail")
    fail.touch()
    complaint = checkout.complaint()
    assert "pip says no" in complaint
    assert "-m pip install" in complaint
    assert not (checkout.root / ".venv.lock").is_symlink()
    fail.unlink()
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 2

    fail.touch()
    checkout.complaint("test")  # half of the test tools are as bad
    fail.unlink()
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 3


def test_a_build_that_was_killed_counts_for_nothing(checkout: Checkout) -> None:
    hold = Path(f"{checkout.log}.hold")
    hold.touch()
    with checkout.start() as process:
        wait_for(lambda: bool(checkout.calls("-I -m pip")))
        process.kill()
        hold.unlink()  # ends the pip that it leaves behind
    assert (checkout.root / ".venv.lock").is_symlink()
    checkout.output()
    assert len(checkout.calls("-I -m venv")) == 2
    assert not (checkout.root / ".venv.lock").is_symlink()


def test_starts_at_once_share_one_build(checkout: Checkout) -> None:
    hold = Path(f"{checkout.log}.hold")
    hold.touch()
    processes = [checkout.start()]
    wait_for(lambda: bool(checkout.calls("-I -m pip")))
    processes += [checkout.start() for _ in range(3)]
    waiting = [process.stderr.readline() for process in processes[1:] if process.stderr]
    assert waiting == [f"run.sh: waiting for another run.sh (pid {processes[0].pid}) that sets up .venv ...\n"] * 3
    hold.unlink()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(outputs)) == 1
    assert len(checkout.calls("-I -m venv")) == 1


def test_many_starts_break_a_dead_ones_lock_once(checkout: Checkout) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    (checkout.root / ".venv.lock").symlink_to(str(dead.pid))
    processes = [checkout.start() for _ in range(5)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(checkout.calls("-I -m venv")) == 1
    assert not list(checkout.root.glob(".venv.lock*"))
