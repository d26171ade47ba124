#!/usr/bin/env bash
# Runs Pulltap from this folder; `./run.sh help` says how.
#
# The first start builds an environment in .venv from the lock files. Any other compares a checksum and hands over
# to mitmdump. macOS ships bash 3.2, so nothing here is newer than what dash understands, too.
set -eu
unset CDPATH # with it, cd may print where it went
status=1     # of die

say() { printf 'run.sh: %s\n' "$*" >&2; }
die() { say "$@" && exit "$status"; }
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac }

script=$0
while [ -L "$script" ]; do # readlink -f is not on every macOS
  target=$(readlink "$script")
  case $target in /*) script=$target ;; *) script=$(dirname "$script")/$target ;; esac
done
root=$(cd -P "$(dirname "$script")" && pwd)
venv=$root/.venv
lock=$root/.venv.lock

# --- settings -------------------------------------------------------------------------------------------------------

settings() { # makes PULLTAP_CONFIG and PULLTAP_HOME absolute, for all that is started from here
  data=${XDG_DATA_HOME:-${HOME:+$HOME/.local/share}}
  PULLTAP_HOME=${PULLTAP_HOME:-${data:+$data/pulltap}}
  [ -n "$PULLTAP_HOME" ] || die "HOME is not set: set it, or name a folder for the CA with PULLTAP_HOME."
  PULLTAP_HOME=$(absolute "$PULLTAP_HOME")
  PULLTAP_CONFIG=$(absolute "${PULLTAP_CONFIG:-$root/mitm-config.yaml}")
  export PULLTAP_HOME PULLTAP_CONFIG
}

link_config() { # mitmproxy reads <confdir>/config.yaml and no other
  [ -e "$PULLTAP_CONFIG" ] || die "no config file at $PULLTAP_CONFIG (PULLTAP_CONFIG names another)."
  { [ -r "$PULLTAP_CONFIG" ] && [ ! -d "$PULLTAP_CONFIG" ]; } || die "cannot read the config file $PULLTAP_CONFIG."
  (umask 077 && mkdir -p "$PULLTAP_HOME") || die "cannot make $PULLTAP_HOME (PULLTAP_HOME names another folder)."
  link=$PULLTAP_HOME/config.yaml
  [ ! "$link" -ef "$PULLTAP_CONFIG" ] || return 0
  if [ -e "$link" ] && [ ! -L "$link" ]; then
    die "$link is a file, not run.sh's link to the config; it stays as it is." \
      "To use it, start with PULLTAP_CONFIG='$link'. To use $PULLTAP_CONFIG, move it away."
  fi
  ln -sfn "$PULLTAP_CONFIG" "$link" || die "cannot link the config file to $link."
}

# --- the environment ------------------------------------------------------------------------------------------------

environment() { # LOCKFILE...: sees to it that .venv holds what they say; requirements.txt comes first
  tries=0
  until fresh "$@"; do
    [ -w "$root" ] || die "cannot write to $root, where .venv is to be made."
    if ln -s $$ "$lock" 2>/dev/null; then # made in one step, and names its owner
      trap 'rm -f "$lock"' EXIT
      fresh "$@" || build "$@" # another run.sh may have built it meanwhile
      rm -f "$lock"
      trap - EXIT
      return
    fi
    await_owner
  done
}

await_owner() { # waits a second for the lock's owner, or breaks the lock of one that is gone
  owner=$(readlink "$lock" || true)
  if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null && mkdir "$lock.break" 2>/dev/null; then
    [ "$(readlink "$lock")" != "$owner" ] || rm -f "$lock" # one breaker at a time, and only of that owner's lock
    rmdir "$lock.break"
    return
  fi
  [ $tries -ne 1 ] || say "waiting for another run.sh (pid $owner) that sets up .venv ..."
  [ $tries -lt 900 ] || die "waited 15 minutes for pid $owner. If that is no run.sh: rm -rf '$lock'*"
  tries=$((tries + 1))
  sleep 1
}

fresh() { # LOCKFILE...
  { [ -f "$venv/pulltap.stamp" ] && [ -x "$venv/bin/python" ]; } || return 1 # the latter dangles once Python is gone
  case $(cat "$venv/pulltap.stamp") in "$(stamp "$@")"*) ;; *) return 1 ;; esac
  [ -z "${PULLTAP_PYTHON:-}" ] || [ "$PULLTAP_PYTHON" = "$(cat "$venv/pulltap.python")" ]
}

stamp() { # LOCKFILE...: a line for each, of all that .venv depends on (pyvenv.cfg names its Python)
  for file; do
    printf '%s %s\n' "$({ printf '%s\n' "$root" && cat "$root/$file" "$venv/pyvenv.cfg"; } | cksum)" "$file"
  done
}

build() { # LOCKFILE...; the stamp comes last, so that an interrupted build counts for nothing
  uv=$(uv --version 2>/dev/null || true) # asked, not looked for: a version manager's shim may lead nowhere
  if fresh requirements.txt && [ "$(cat "$venv/pulltap.stamp")" = "$(stamp requirements.txt)" ]; then
    say "adding the test tools to .venv (once) ..."
    rm "$venv/pulltap.stamp"
  else
    find_python
    say "setting up the environment in .venv (once, about a minute) ..."
    rm -rf "$venv"
    if [ -n "$uv" ]; then
      quietly uv venv --no-project --python "$python" "$venv"
    else
      quietly "$python" -I -m venv "$venv"
    fi
    for site in "$venv"/lib/python3.*/site-packages; do
      printf '%s\n' "$root" >"$site/pulltap.pth" # so that mitmproxy and pytest can import addon
    done
    printf '%s\n' "${PULLTAP_PYTHON:-$python}" >"$venv/pulltap.python"
  fi
  for file; do
    if [ -n "$uv" ]; then
      quietly uv --directory "$root" pip install --python "$venv/bin/python" --compile-bytecode \
        --require-hashes -r "$file"
    else
      quietly "$venv/bin/python" -I -m pip install --no-input --disable-pip-version-check \
        --require-hashes -r "$root/$file"
    fi
  done
  stamp "$@" >"$venv/pulltap.stamp"
}

quietly() { # COMMAND...: what it prints is of use only when it fails
  output=$("$@" 2>&1) && return
  printf '%s\n' "$output" >&2
  die ".venv could not be made, because this failed: $*"
}

find_python() { # sets python
  tried=
  if [ -n "${PULLTAP_PYTHON:-}" ]; then
    usable "$PULLTAP_PYTHON" || die "PULLTAP_PYTHON must be a Python 3.12, 3.13 or 3.14:" \
      "${tried:-there is no $PULLTAP_PYTHON}"
    return
  fi
  pyenv=${PYENV_ROOT:-${HOME:-}/.pyenv}/versions
  for name in python3.14 python3.13 python3.12 python3 python \
    "$pyenv"/*/bin/python3.14 "$pyenv"/*/bin/python3.13 "$pyenv"/*/bin/python3.12; do
    ! usable "$name" || return 0
  done
  if [ -n "$uv" ]; then
    name=$(uv python find --no-project '>=3.12,<3.15' 2>/dev/null ||
      { uv python install 3.13 >&2 && uv python find --no-project 3.13; }) || true
    ! usable "$name" || return 0
  fi
  asked=${uv:+could not get one either}
  die "no Python 3.12, 3.13 or 3.14 found. Looked for python3.14, python3.13, python3.12, python3 and python on PATH,
and in $pyenv; uv ${asked:-is not on PATH}.$tried
Ways out: install one (Debian 13: apt install python3-venv; macOS: brew install python@3.13; pyenv install 3.13),
or uv, which fetches one; or name one: PULLTAP_PYTHON=/path/to/python3.13 ./run.sh"
}

usable() { # COMMAND: sets python if it will do, else adds the reason to tried
  path=$(command -v "$1") || return 1
  # sys.executable: what stands behind a shim
  found=$("$path" -c 'import sys; print("%d.%d %s" % (sys.version_info[:2] + (sys.executable,)))' 2>/dev/null) || found=
  python=${found#* }
  case $found in
    3.1[234]\ *)
      # Debian keeps ensurepip in a package of its own; uv does without it
      if [ -n "$uv" ] || "$python" -I -c 'import ensurepip' 2>/dev/null; then return 0; fi
      reason="cannot make environments (Debian: apt install python${found%% *}-venv)" ;;
    ?*) reason="is Python ${found%% *}" ;;
    *) reason="does not run" ;;
  esac
  tried="$tried
  $path $reason"
  return 1
}

# --- commands -------------------------------------------------------------------------------------------------------

commands() { # those that this checkout has
  printf 'console web test'
  [ ! -d "$root/bench" ] || printf ' bench'
  [ ! -f "$root/addon/ui/cli.py" ] || printf ' store warm'
}

usage() {
  cat <<END
usage: ./run.sh [ARGS]           run mitmdump with Pulltap; ARGS go to mitmdump: ./run.sh --mode transparent
       ./run.sh console [ARGS]   the same in mitmproxy's terminal interface
       ./run.sh web [ARGS]       the same in mitmweb
       ./run.sh test [ARGS]      lint, type check and tests; with ARGS only pytest, which gets them
       ./run.sh store ACTION     look at the store, and tidy it: ls, verify, gc, rm, stats, pin, unpin
       ./run.sh warm IMAGE...    pull images into the store
       ./run.sh COMMAND [ARGS]   any other of: $(commands)
       ./run.sh help             this page (mitmdump's own: .venv/bin/mitmdump --help)

A first argument that begins with a letter is a command, all else goes to mitmdump as it is. A filter expression
comes after an option, or after --, which run.sh takes away: ./run.sh -- example.com

PULLTAP_CONFIG   the config file; default: mitm-config.yaml beside run.sh
PULLTAP_HOME     the folder of mitmproxy's CA and of a link to the config file; default:
                 \${XDG_DATA_HOME:-~/.local/share}/pulltap
PULLTAP_PYTHON   the Python to make .venv with; default: the first of 3.14, 3.13 and 3.12 that is found
END
}

proxy() { # mitmdump|mitmproxy|mitmweb [ARGS]
  tool=$1 && shift
  settings
  link_config
  environment requirements.txt
  exec "$venv/bin/python" -P -m addon.ui.launch "$tool" "$PULLTAP_CONFIG" \
    --set "confdir=$PULLTAP_HOME" -s "$root/addon/main.py" "$@"
}

check() { # [PYTEST ARGS]
  environment requirements.txt requirements-dev.txt
  cd "$root"
  PATH=$venv/bin:$PATH
  [ $# -eq 0 ] || exec pytest "$@"
  failed=
  # Side by side, since most tests wait for something most of the time; more than two would be felt by what they measure.
  for step in 'ruff check' 'ruff format --check' mypy 'pytest -n 2 --dist worksteal'; do
    say "$step"
    $step || failed="$failed, $step"
  done
  [ -z "$failed" ] || die "failed: ${failed#, }"
}

module() { # MODULE [ARGS]; -P: a folder of its name may lie where the user stands
  settings
  environment requirements.txt
  exec "$venv/bin/python" -P -m "$@"
}

beside() { # [ARGS]: a command that needs the config
  settings
  link_config
  module addon.ui.cli "$command" "$@"
}

command=
case ${1-} in
  help | -h | --help) usage && exit ;;
  --) shift ;; # mitmdump would take it for a part of the filter
  [A-Za-z]*)
    command=$1 && shift
    case " $(commands) " in
      *" $command "*) ;;
      *) status=2 die "no command \"$command\" here; there are: $(commands) help. A filter goes after --." ;;
    esac
    ;;
esac
case $command in
  '') proxy mitmdump "$@" ;;
  console) proxy mitmproxy "$@" ;;
  web) proxy mitmweb "$@" ;;
  test) check "$@" ;;
  bench)
    environment requirements.txt requirements-dev.txt
    module bench "$@"
    ;;
  *) beside "$@" ;;
esac
