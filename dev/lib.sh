# shellcheck shell=bash
# Shared by dev/stack, dev/demo and .ci/run: messages and the installation of missing Debian packages.

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# ensure_packages PACKAGE...: installs them as root, and tells an ordinary user what to run.
# Call it only when something is missing; it does not look first.
ensure_packages() {
  local install="apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || die "missing: $*. There is no apt-get here: install them by hand."
  ((EUID == 0)) || die "missing packages: $*. Install them with:
  sudo apt-get update && sudo $install"

  say "installing $* ..."
  # A package that brings a server starts it at once, on the standard port. We never use those, so
  # the usual Debian guard forbids it for the length of the installation, unless one is there already.
  local guard=/usr/sbin/policy-rc.d guarded=no log status=0
  if [[ ! -e $guard ]]; then
    guarded=yes
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
  fi
  log=$(mktemp)
  {
    apt-get -o DPkg::Lock::Timeout=120 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
        install -y --no-install-recommends "$@"
  } >"$log" 2>&1 </dev/null || status=$?
  if [[ $guarded == yes ]]; then rm -f "$guard"; fi
  if ((status != 0)); then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get failed; the lines above say why. The command was: $install"
  fi
  rm -f "$log"
}
