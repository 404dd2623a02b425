# A private RabbitMQ in a directory of its own. Sourced by scripts, and run by tests that need a broker of their own:
#
#   bash scripts/lib/rabbitmq.sh boot DIRECTORY PORT    starts it there (again) and returns when it responds
#   bash scripts/lib/rabbitmq.sh kill DIRECTORY         kill -9; the data remains
#   bash scripts/lib/rabbitmq.sh end DIRECTORY          kill -9, also of its port mapper
#   bash scripts/lib/rabbitmq.sh ctl DIRECTORY COMMAND  rabbitmqctl
#
# The directory contains everything: data, logs, the Erlang cookie, two ports and the process ids.

# shellcheck source=scripts/lib/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# Finds the server's programs, installs them if possible (as root, with apt-get), or prints what to install.
rabbitmq_require() {
  RABBITMQ_BIN=$(rabbitmq_find) && return
  install_package RabbitMQ rabbitmq-server && RABBITMQ_BIN=$(rabbitmq_find) && return
  cat >&2 <<'WHAT'
The tests need RabbitMQ 3.10 or newer (its programs, not a running server). Install it:
  Debian, Ubuntu:  sudo apt-get install rabbitmq-server
  Fedora:          sudo dnf install rabbitmq-server
  macOS:           brew install rabbitmq
or select your own server: BANYAN_TEST_RABBITMQ=amqp://user:password@host:port/%2f scripts/test.sh
(the tests that kill a broker need the programs in any case).
WHAT
  return 1
}

rabbitmq_find() {
  local directory
  # Not /usr/sbin/rabbitmq-server: that wrapper requires a user, changes the directory and drops the environment.
  for directory in /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin /opt/homebrew/opt/rabbitmq/sbin /usr/local/opt/rabbitmq/sbin; do
    if [ -x "$directory/rabbitmq-server" ] && [ -x "$directory/rabbitmqctl" ]; then
      echo "$directory"
      return
    fi
  done
  return 1
}

# Starts a broker and exports BANYAN_TEST_RABBITMQ.
rabbitmq_start() {
  RABBITMQ_HOME=$(mktemp -d "${TMPDIR:-/tmp}/banyan-rabbitmq.XXXXXX")
  local port
  port=$(free_port)
  rabbitmq_boot "$RABBITMQ_HOME" "$port" || return 1
  export BANYAN_TEST_RABBITMQ="amqp://guest:guest@127.0.0.1:$port/%2f"
}

rabbitmq_stop() {
  rabbitmq_end "$RABBITMQ_HOME"
  rm -rf "$RABBITMQ_HOME"
}

# rabbitmq_boot DIRECTORY PORT: starts the broker on the data in the directory, and configures it first if it does not exist yet.
rabbitmq_boot() {
  local home=$1 port=$2 apart=''
  [ -e "$home/env.sh" ] || rabbitmq_configure "$home" "$port"
  rm -f "$home/pid"
  ! command -v setsid >/dev/null || apart=setsid
  # Sessions of their own, if setsid is installed, so that Ctrl-C in the terminal does not stop them; the script that started them does. Erlang would
  # start its port mapper by itself, and its process id would be unknown; the server writes its own.
  if ! kill -0 "$(cat "$home/epmd.pid" 2>/dev/null)" 2>/dev/null; then
    rabbitmq_as "$home" "exec $apart sh -c 'echo \$\$ >\"$home/epmd.pid\"; exec epmd'" >/dev/null 2>&1 </dev/null &
  fi
  rabbitmq_as "$home" "exec $apart '$RABBITMQ_BIN/rabbitmq-server' >'$home/out.log' 2>&1" >/dev/null 2>&1 </dev/null &
  if ! rabbitmq_wait "$home" "$port"; then
    echo "RabbitMQ did not start within 60 s; the end of $home/out.log:" >&2
    tail -n 30 "$home/out.log" >&2
    rabbitmq_end "$home"
    return 1
  fi
}

rabbitmq_configure() {
  local home=$1 port=$2 node epmd distribution
  epmd=$(free_port) distribution=$(free_port)
  while [ "$distribution" = "$epmd" ]; do distribution=$(free_port); done
  node="banyan$port@localhost"
  mkdir -p "$home"
  echo '[].' >"$home/enabled_plugins"
  cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
distribution.listener.interface = 127.0.0.1
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
CONF
  cat >"$home/env.sh" <<ENV
export HOME='$home' RABBITMQ_NODENAME=$node RABBITMQ_NODE_PORT=$port RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT=$distribution
export RABBITMQ_MNESIA_BASE='$home/mnesia' RABBITMQ_LOG_BASE='$home/log' RABBITMQ_PID_FILE='$home/pid' RABBITMQ_CONFIG_FILE='$home/rabbitmq'
export RABBITMQ_ENABLED_PLUGINS_FILE='$home/enabled_plugins' RABBITMQ_CONF_ENV_FILE=/dev/null
export ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1
# One scheduler is enough for a test, and leaves the other cores to the shop.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none'
ENV
  if [ "$(id -u)" = 0 ]; then
    chown -R rabbitmq "$home"
  fi
}

# Waits until it speaks AMQP: an open port may belong to a broker that is still starting.
rabbitmq_wait() {
  local home=$1 port=$2
  for _ in $(seq 600); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'AMQP\0\0\11\1' >&3 && [ -n "$(head -c 1 <&3 | od -An -tx1)" ]) 2>/dev/null; then
      return 0
    fi
    sleep 0.1
  done
  return 1
}

# rabbitmq_kill DIRECTORY: kill -9, and wait for its end. The data remains.
rabbitmq_kill() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill -9 "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  rm -f "$1/pid"
}

# rabbitmq_end DIRECTORY: kills the broker and its port mapper.
rabbitmq_end() {
  rabbitmq_kill "$1"
  kill "$(cat "$1/epmd.pid" 2>/dev/null)" 2>/dev/null || true
  rm -f "$1/epmd.pid"
}

rabbitmq_as() {
  if [ "$(id -u)" = 0 ]; then
    su rabbitmq -s /bin/sh -c "cd / && . '$1/env.sh' && $2"
  else
    sh -c "cd / && . '$1/env.sh' && $2"
  fi
}

# Run, not sourced.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  rabbitmq_require
  case "${1:-}" in
    boot) rabbitmq_boot "$2" "$3" ;;
    kill) rabbitmq_kill "$2" ;;
    end) rabbitmq_end "$2" ;;
    ctl) rabbitmq_as "$2" "'$RABBITMQ_BIN/rabbitmqctl' $3" ;;
    *) sed -n '3,6s/^# *//p' "$0" >&2; exit 2 ;;
  esac
fi
