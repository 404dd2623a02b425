# What scripts need of the machine they run on. Sourced, not run.

# install_package PROGRAM PACKAGE: installs one of Debian's packages where that is ours to do; 1 where it is not. No server is started.
install_package() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  echo "$1 is not installed; installing Debian's package $2 (no server is started)."
  (
    # A package would start a server of its own; this is how packages are told not to. A subshell's trap also runs when it is interrupted.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    fi
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$2"
  ) >/dev/null
}

is_taken() { (exec 4<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nobody listens on, below those that the system gives to connections: one of them could take it while a server restarts. And below those
# that the tests give to what they start (tests/src/harness/process.rs): they could have given it already to somebody who does not listen yet.
free_port() {
  local port=$((10000 + RANDOM % 6000))
  while is_taken "$port"; do port=$((10000 + RANDOM % 6000)); done
  echo "$port"
}
