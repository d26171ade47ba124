"""run.sh from the outside: each test runs it in a copy of its own, with stand-ins for Python, pip, uv and mitmproxy.

All but the last ones see a PATH with nothing but those stand-ins and the few tools that run.sh may use. They run under
bash and under dash: what both understand, macOS's bash 3.2 does, too.
"""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("cat", "cksum", "cp", "dirname", "env", "ln", "mkdir", "readlink", "rm", "rmdir", "sh", "sleep")

# Answers what run.sh asks of a Python. `venv` copies it, `pip install` puts tools beside it that print their arguments.
PYTHON = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in
  "-c "*) echo "VERSION $0" ;;
  "-I -c import ensurepip") ;;
  "-I -m venv "*)
    mkdir -p "$4/bin" "$4/lib/pythonVERSION/site-packages"
    cp "$0" "$4/bin/python"
    echo "home = $0" >"$4/pyvenv.cfg" ;;
  "-I -m pip install"*)
    while [ -e "$LOG.hold" ]; do sleep 0.02; done
    echo "pip says much"
    if [ -e "$LOG.fail" ]; then echo "pip says no" >&2; exit 1; fi
    for tool in mitmdump mitmproxy mitmweb mypy pytest ruff; do
      cp "$TOOL" "${0%/*}/$tool"
    done ;;
  "-P -m addon.ui.launch "*)
    tool=$4
    shift 5
    exec "${0%/*}/$tool" "$@" ;;
esac
"""
TOOL = """#!/bin/sh
name=${0##*/}
echo "$name"
for arg; do echo "[$arg]"; done
[ ! -e "$LOG.$name.fail" ]
"""
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
case "$*" in
  --version) echo "uv 1.0" ;;
  venv*) exec "$4" -I -m venv "$5" ;;
  *"pip install"*) exec "$6" -I -m pip install ;;
  "python find"*) [ -z "${UV_HAS-}" ] || echo "$UV_HAS" ;;
  "python install"*) exit 1 ;;
esac
"""
SHIM = """#!/bin/sh
echo "pyenv: ${0##*/}: command not found" >&2
exit 127
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Checkout:
    """A copy of the project in a folder with a space, and the little world that its run.sh sees."""

    shell: str
    root: Path
    log: Path
    env: dict[str, str] = field(default_factory=dict)

    def python(self, path: str, version: str = "3.13") -> Path:
        """A Python of that version, at a path below the world's own folder."""
        return script(self.root.parent / path, PYTHON.replace("VERSION", version))

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.shell, str(self.root / "run.sh"), *args],
            env=self.env | env,
            cwd=self.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*args, **env) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def output(self, *args: str, **env: str) -> list[str]:
        """The lines that it prints; it must succeed."""
        done = self.run(*args, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def complaint(self, *args: str, status: int = 1, **env: str) -> str:
        """What it says on stderr; it must fail, and print nothing else."""
        done = self.run(*args, **env)
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr

    def calls(self, start: str = "") -> list[str]:
        """The calls of Python and uv so far that begin with the given words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(start)]

    @property
    def link(self) -> Path:
        return Path(self.env["HOME"], ".local/share/pulltap/config.yaml")


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


# --- what is started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "tool"),
    [((), "mitmdump"), (("console",), "mitmproxy"), (("web",), "mitmweb")],
)
def test_starts_the_tool_with_the_addon_and_the_arguments_as_they_are(
    checkout: Checkout, args: tuple[str, ...], tool: str
) -> None:
    rest = ["--mode", "reverse:a b", "", "*", "$HOME", "it's"]
    assert checkout.output(*args, *rest) == [
        tool,
        "[--set]",
        f"[confdir={checkout.link.parent}]",
        "[-s]",
        f"[{checkout.root}/addon/main.py]",
        *(f"[{arg}]" for arg in rest),
    ]


@pytest.mark.parametrize(
    ("args", "passed"),
    [
        ((), []),
        (("--version",), ["[--version]"]),
        (("~d example.com",), ["[~d example.com]"]),
        (("--", "example.com"), ["[example.com]"]),
        (("--", "console"), ["[console]"]),
        (("-q", "--", "x"), ["[-q]", "[--]", "[x]"]),
    ],
)
def test_what_is_no_command_goes_to_mitmdump(checkout: Checkout, args: tuple[str, ...], passed: list[str]) -> None:
    assert checkout.output(*args)[5:] == passed


def test_an_unknown_command_is_refused_with_those_that_exist(bare: Checkout) -> None:
    for word in ("stor", "store", "bench"):
        complaint = bare.complaint(word, status=2)
        assert f'"{word}"' in complaint
        assert "console web test help" in complaint
    (bare.root / "bench").mkdir()
    (bare.root / "addon/ui").mkdir()
    (bare.root / "addon/ui/cli.py").touch()
    assert "console web test bench store warm help" in bare.complaint("stor", status=2)


@pytest.mark.parametrize("word", ["store", "warm"])
def test_commands_beside_the_proxy_are_a_module_and_see_its_config(checkout: Checkout, word: str) -> None:
    (checkout.root / "addon/ui").mkdir()
    (checkout.root / "addon/ui/cli.py").touch()
    checkout.output(word, "rm", "a b", "--", "-q")
    assert checkout.calls()[-1] == f"-P -m addon.ui.cli {word} rm a b -- -q"
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"
    assert checkout.calls("-I -m pip")[-1].endswith("requirements.txt")
    assert "missing.yaml" in checkout.complaint(word, PULLTAP_CONFIG="missing.yaml")


def test_the_benchmarks_are_a_module(checkout: Checkout) -> None:
    (checkout.root / "bench").mkdir()
    checkout.output("bench", "-q")
    assert checkout.calls()[-1] == "-P -m bench -q"
    assert checkout.calls("-I -m pip")[-1].endswith("requirements-dev.txt")


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_needs_nothing_and_names_the_variables(bare: Checkout, word: str) -> None:
    text = "\n".join(bare.output(word, HOME=""))
    for name in ("PULLTAP_CONFIG", "PULLTAP_HOME", "PULLTAP_PYTHON", "console", "web", "test", "store", "warm"):
        assert name in text
    assert bare.calls() == []


def test_runs_through_links_from_any_folder(checkout: Checkout) -> None:
    elsewhere = checkout.root.parent / "elsewhere"
    elsewhere.mkdir()
    (checkout.root / "second").symlink_to("run.sh")
    (elsewhere / "pulltap").symlink_to("../a checkout/second")
    done = subprocess.run(
        [checkout.shell, "elsewhere/pulltap"],
        env=checkout.env | {"CDPATH": str(elsewhere.parent)},
        cwd=elsewhere.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"[{checkout.root}/addon/main.py]" in done.stdout


# --- the tests -------------------------------------------------------------------------------------------------------


def test_test_checks_everything_and_fails_if_anything_did(checkout: Checkout) -> None:
    steps = ["ruff", "[check]", "ruff", "[format]", "[--check]", "mypy", "pytest"]
    assert checkout.output("test") == steps
    Path(f"{checkout.log}.ruff.fail").touch()
    done = checkout.run("test")
    assert done.returncode == 1
    assert done.stdout.splitlines() == steps
    assert done.stderr.endswith("failed: ruff check, ruff format --check\n")


def test_test_with_arguments_is_pytest(checkout: Checkout) -> None:
    assert checkout.output("test", "-k", "a or b") == ["pytest", "[-k]", "[a or b]"]


# --- the config file -------------------------------------------------------------------------------------------------


def test_links_the_config_file_into_a_private_folder(checkout: Checkout) -> None:
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"
    assert stat.S_IMODE(checkout.link.parent.stat().st_mode) == 0o700


def test_the_link_follows_the_setting(checkout: Checkout) -> None:
    other = checkout.root.parent / "my config.yaml"
    other.touch()
    checkout.output()
    checkout.output(PULLTAP_CONFIG=other.name)  # relative to where the user stands
    assert checkout.link.readlink() == other
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"


def test_a_dangling_link_is_mended(checkout: Checkout) -> None:
    checkout.link.parent.mkdir(parents=True)
    checkout.link.symlink_to("/nowhere")
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"


def test_a_real_config_file_in_the_way_is_kept(checkout: Checkout) -> None:
    checkout.link.parent.mkdir(parents=True)
    checkout.link.write_text("precious: true\n")
    complaint = checkout.complaint()
    assert str(checkout.link) in complaint
    assert "PULLTAP_CONFIG=" in complaint
    assert "move it away" in complaint
    assert checkout.link.read_text() == "precious: true\n"

    checkout.output(PULLTAP_CONFIG=str(checkout.link))  # the way out that it names
    assert checkout.link.read_text() == "precious: true\n"
    assert not checkout.link.is_symlink()


@pytest.mark.parametrize("config", ["missing.yaml", "home"])
def test_a_config_file_that_cannot_be_read_is_named(bare: Checkout, config: str) -> None:
    assert str(bare.root.parent / config) in bare.complaint(PULLTAP_CONFIG=config)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"XDG_DATA_HOME": "/xdg"}, "/xdg/pulltap"),
        ({"XDG_DATA_HOME": ""}, "/home/.local/share/pulltap"),
        ({"PULLTAP_HOME": "/my home", "XDG_DATA_HOME": "/xdg"}, "/my home"),
        ({"PULLTAP_HOME": "rel"}, "/rel"),
        ({"PULLTAP_HOME": "/my home", "HOME": ""}, "/my home"),
    ],
)
def test_where_the_ca_lives(checkout: Checkout, env: dict[str, str], expected: str) -> None:
    world = checkout.root.parent
    env = {name: f"{world}{value}" if value.startswith("/") else value for name, value in env.items()}
    assert f"[confdir={world}{expected}]" in checkout.output(**env)
    assert (world / expected.lstrip("/") / "config.yaml").is_symlink()


def test_without_a_home_it_asks_for_one(bare: Checkout) -> None:
    assert "PULLTAP_HOME" in bare.complaint(HOME="")
    del bare.env["HOME"]
    assert "PULLTAP_HOME" in bare.complaint()


def test_a_home_that_cannot_be_made_is_named(bare: Checkout) -> None:
    (bare.root.parent / "file").touch()
    assert "PULLTAP_HOME names another folder" in bare.complaint(PULLTAP_HOME="file/home")


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


# --- the script itself, and the real thing ---------------------------------------------------------------------------


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
