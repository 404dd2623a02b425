# A private PostgreSQL in a directory of its own. Sourced by scripts, and run by tests that need a server of their own:
#
#   bash scripts/lib/postgres.sh boot DIRECTORY PORT    starts it there (again) and returns when it responds
#   bash scripts/lib/postgres.sh kill DIRECTORY         stops it at once; the data remains

# shellcheck source=scripts/lib/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# Finds the server's programs, installs them if possible (as root, with apt-get), or prints what to install.
postgres_require() {
  POSTGRES_BIN=$(postgres_find) && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # Without this the package would create a cluster.
    mkdir -p /etc/postgresql-common && [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
  install_package PostgreSQL postgresql && POSTGRES_BIN=$(postgres_find) && return
  cat >&2 <<'WHAT'
The tests need PostgreSQL 13 or newer (its programs, not a running server). Install it:
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora:          sudo dnf install postgresql-server
  macOS:           brew install postgresql@17
or select your own server: BANYAN_TEST_POSTGRES=postgres://superuser@host:port/postgres scripts/test.sh
WHAT
  return 1
}

postgres_find() {
  local directory
  for directory in "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
      echo "$directory"
      return
    fi
  done
  return 1
}

# postgres_start [DIRECTORY]: starts it and exports BANYAN_TEST_POSTGRES. With a directory, its data is kept there and used again; without one,
# postgres_stop removes the data. PostgreSQL refuses to run as root, so root runs it as the package's user.
# shellcheck disable=SC2120 # some callers pass no directory
postgres_start() {
  POSTGRES_KEEP=${1:-}
  POSTGRES_HOME=${1:-$(mktemp -d "${TMPDIR:-/tmp}/banyan-postgres.XXXXXX")}
  local port
  port=$(free_port)
  postgres_boot "$port" || return 1
  export BANYAN_TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/postgres"
}

# postgres_boot PORT: starts the server in POSTGRES_HOME, and creates its data first if there is no data yet.
postgres_boot() {
  local port=$1
  mkdir -p "$POSTGRES_HOME"
  if [ "$(id -u)" = 0 ]; then
    chown postgres "$POSTGRES_HOME"
  fi
  if [ ! -e "$POSTGRES_HOME/data/PG_VERSION" ]; then
    postgres_as "'$POSTGRES_BIN/initdb' -D '$POSTGRES_HOME/data' -U postgres -A trust -E UTF8 --locale=C" >"$POSTGRES_HOME/initdb.log"
  fi
  if ! postgres_as "'$POSTGRES_BIN/pg_ctl' -D '$POSTGRES_HOME/data' -l '$POSTGRES_HOME/server.log' -w -t 60 start \
      -o '-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=500'" >/dev/null; then
    cat "$POSTGRES_HOME/server.log" >&2
    return 1
  fi
}

postgres_stop() {
  if [ -n "$POSTGRES_KEEP" ]; then
    postgres_as "'$POSTGRES_BIN/pg_ctl' -D '$POSTGRES_HOME/data' -m fast stop" >/dev/null 2>&1 || true
    return
  fi
  postgres_as "'$POSTGRES_BIN/pg_ctl' -D '$POSTGRES_HOME/data' -m immediate stop" >/dev/null 2>&1 || true
  rm -rf "$POSTGRES_HOME"
}

postgres_as() {
  if [ "$(id -u)" = 0 ]; then
    # From /, because that user may be unable to enter the caller's directory.
    su postgres -s /bin/sh -c "cd / && $1"
  else
    sh -c "$1"
  fi
}

# Run, not sourced.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  postgres_require
  POSTGRES_HOME=$2
  case "${1:-}" in
    boot) postgres_boot "$3" ;;
    kill) postgres_as "'$POSTGRES_BIN/pg_ctl' -D '$POSTGRES_HOME/data' -m immediate stop" >/dev/null ;;
    *) sed -n '3,4s/^# *//p' "$0" >&2; exit 2 ;;
  esac
fi
