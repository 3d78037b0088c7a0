# shellcheck shell=bash
# Shared by the scripts of dev and .ci/run: messages, and the installation of what is missing.

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# without_dotenv: what is started from here on takes nothing from a `.env`, which is that of a real installation:
# what is empty there counts as absent, and goes before it. The owner's URL counts from nowhere: `p2p migrate` and the
# coordinator prefer it to the DATABASE_URL of a database that is thrown away.
without_dotenv() {
  local name
  while read -r name; do
    export "$name=${!name:-}"
  done < <(sed -n '/^# --- alerts/q; s/^#\([A-Z0-9_]*\)=.*/\1/p' "$ROOT/.env.example")
  export OWNER_DATABASE_URL=
}

# ensure_packages PACKAGE...: installs them as root, and tells an ordinary user what to run.
# Call it only when something is missing; it does not look first.
ensure_packages() {
  local install="apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || die "missing: $*. There is no apt-get here: install them by hand."
  ((EUID == 0)) || die "missing packages: $*. Install them with:
  sudo apt-get update && sudo $install"

  say "installing $* ..."
  local log status=0
  log=$(mktemp)
  (guarded_install "$@") >"$log" 2>&1 </dev/null || status=$?
  if ((status != 0)); then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get failed; the lines above say why. The command was: $install"
  fi
  rm -f "$log"
}

# guarded_install PACKAGE...: in a shell of its own, whose end removes the guard however it comes.
# A package that brings a server starts it at once, on the standard port. We never use those, so
# the usual Debian guard forbids it for the length of the installation, unless one is there already.
guarded_install() {
  local guard=/usr/sbin/policy-rc.d
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [[ ! -e $guard ]]; then
    # shellcheck disable=SC2064 # the guard that is meant now
    trap "rm -f '$guard'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
  fi
  apt-get -o DPkg::Lock::Timeout=120 update &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
      install -y --no-install-recommends "$@"
}

# python_with PLACE PACKAGE==VERSION...: a Python of its own in PLACE with just these, kept for the next time. 1 if it
# can't be had.
python_with() {
  local place=$1
  shift
  command -v python3 >/dev/null || ensure_packages python3 python3-venv
  # A Python that was replaced meanwhile leaves a link to nothing.
  if [[ -x $place/bin/python && $(cat "$place/installed" 2>/dev/null) == "$*" ]]; then return; fi
  rm -rf "$place"
  # Debian's Python comes without the means to make another.
  if ! python3 -m venv "$place" >/dev/null 2>&1; then
    rm -rf "$place"
    ensure_packages python3-venv
    python3 -m venv "$place" >&2 || return 1
  fi
  "$place/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || return 1
  echo "$*" >"$place/installed"
}
