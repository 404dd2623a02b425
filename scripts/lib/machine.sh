# What scripts need of the machine they run on. Sourced, not run.

# install_package PROGRAM PACKAGE: installs one of Debian's packages where that is ours to do; 1 where it is not. No server is started.
install_package() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  echo "$1 is not installed; installing Debian's package $2 (no server is started)."
  # A package would start a server of its own; this is how packages are told not to.
  local policy=/usr/sbin/policy-rc.d ours='' code=0
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=yes; }
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$2"; } >/dev/null || code=$?
  [ -z "$ours" ] || rm -f "$policy"
  return "$code"
}

# A port of this machine that nobody listens on now.
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000))
}
