# A private RabbitMQ in a directory of its own. Sourced by scripts, and run by tests that need a broker of their own:
#
#   bash scripts/lib/rabbitmq.sh boot DIRECTORY PORT    starts it there (again) and returns when it answers
#   bash scripts/lib/rabbitmq.sh kill DIRECTORY         kill -9; the data stays
#   bash scripts/lib/rabbitmq.sh end DIRECTORY          the same, and its port mapper
#   bash scripts/lib/rabbitmq.sh ctl DIRECTORY COMMAND  rabbitmqctl
#
# Everything of it is in that directory: data, logs, its Erlang cookie, and the two ports and process ids that are its alone.

# shellcheck source=scripts/lib/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# Finds the server's programs, installs them where that is ours to do (root, Debian's packages), or says what to install.
rabbitmq_require() {
  RABBITMQ_BIN=$(rabbitmq_find) && return
  install_package RabbitMQ rabbitmq-server && RABBITMQ_BIN=$(rabbitmq_find) && return
  cat >&2 <<'WHAT'
The tests need RabbitMQ 3.10 or newer (its programs, not a running server). Install it:
  Debian, Ubuntu:  sudo apt-get install rabbitmq-server
  Fedora:          sudo dnf install rabbitmq-server
  macOS:           brew install rabbitmq
or name a server of yours: BANYAN_TEST_RABBITMQ=amqp://user:password@host:port/%2f scripts/test.sh
(the tests that kill a broker need the programs all the same).
WHAT
  return 1
}

rabbitmq_find() {
  local directory
  # Not /usr/sbin/rabbitmq-server: that wrapper insists on a user, changes the directory and drops the environment.
  for directory in /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin /opt/homebrew/opt/rabbitmq/sbin /usr/local/opt/rabbitmq/sbin; do
    if [ -x "$directory/rabbitmq-server" ] && [ -x "$directory/rabbitmqctl" ]; then
      echo "$directory"
      return
    fi
  done
  return 1
}

# Starts one and exports BANYAN_TEST_RABBITMQ.
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

# DIRECTORY PORT: starts the broker on what is in the directory, which may be nothing yet.
rabbitmq_boot() {
  local home=$1 port=$2 apart=''
  [ -e "$home/env.sh" ] || rabbitmq_configure "$home" "$port"
  rm -f "$home/pid"
  ! command -v setsid >/dev/null || apart=setsid
  # Sessions of their own, where there is setsid, so that Ctrl-C in the terminal leaves stopping to whoever started them. Erlang would start its port mapper by itself, and
  # nobody would know which process it is; the server writes its own pid.
  if ! kill -0 "$(cat "$home/epmd.pid" 2>/dev/null)" 2>/dev/null; then
    rabbitmq_as "$home" "exec $apart sh -c 'echo \$\$ >\"$home/epmd.pid\"; exec epmd'" >/dev/null 2>&1 </dev/null &
  fi
  rabbitmq_as "$home" "exec $apart '$RABBITMQ_BIN/rabbitmq-server' >'$home/out.log' 2>&1" >/dev/null 2>&1 </dev/null &
  if ! rabbitmq_wait "$home" "$port"; then
    echo "RabbitMQ did not start within 60 s; $home/out.log says:" >&2
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
# One scheduler is enough for a test, and leaves the others to what is tested.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none'
ENV
  if [ "$(id -u)" = 0 ]; then
    chown -R rabbitmq "$home"
  fi
}

# Until it speaks AMQP: a port that is only open may belong to a broker that is still starting.
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

# DIRECTORY: kill -9, and wait until it is gone. The data stays.
rabbitmq_kill() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill -9 "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  rm -f "$1/pid"
}

# DIRECTORY: the broker and its epmd.
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
