# Installing packages and finding free ports. Sourced, not run.

# install_package PROGRAM PACKAGE: installs a Debian package if this is root with apt-get, else returns 1. No server is started.
install_package() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  echo "$1 is not installed; installing Debian's package $2 (no server is started)."
  (
    # A package would start its server; policy-rc.d prevents that. The trap of a subshell also runs when it is interrupted.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    fi
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$2"
  ) >/dev/null
}

is_taken() { (exec 4<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a port that is not in use. It is below the ports that the system assigns to connections, which could take it while a server restarts, and below
# those that the tests assign to their processes (tests/src/harness/process.rs), which may be assigned already although nobody listens yet.
free_port() {
  local port=$((10000 + RANDOM % 6000))
  while is_taken "$port"; do port=$((10000 + RANDOM % 6000)); done
  echo "$port"
}
