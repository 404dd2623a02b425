#!/usr/bin/env bash
# The test command: starts a private PostgreSQL and RabbitMQ on free ports, runs every test of the workspace against them, and removes them.
#
#   scripts/test.sh                 everything, short counts (a few minutes after the build)
#   scripts/test.sh --full          the long counts: 50 kills per database instead of 5, each fault of the split shop 20 times (a minute's partition three times), tables of a million rows
#   scripts/test.sh -- NAME         only tests whose name contains NAME (everything after -- is passed to cargo test)
#
# BANYAN_TEST_POSTGRES=postgres://superuser@host:port/postgres and BANYAN_TEST_RABBITMQ=amqp://user:password@host:port/%2f select your own servers instead.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/postgres.sh
source scripts/lib/rabbitmq.sh
source scripts/lib/etcd.sh
source scripts/lib/binaries.sh

export BANYAN_TEST_KILLS="${BANYAN_TEST_KILLS:-5}" BANYAN_TEST_FAULTS="${BANYAN_TEST_FAULTS:-1}"
while [ $# -gt 0 ]; do
  case "$1" in
    --full) export BANYAN_TEST_KILLS=50 BANYAN_TEST_FAULTS=20 BANYAN_TEST_ROWS=500000; shift ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "scripts/test.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done

# Some tests start and stop a server of their own, so the programs are needed in any case.
postgres_require
rabbitmq_require
# One test needs PgBouncer; without it, it says so and passes.
command -v pgbouncer >/dev/null || install_package PgBouncer pgbouncer ||
  echo "PgBouncer is not installed (Debian: sudo apt-get install pgbouncer): its test is skipped" >&2
# One test checks the OpenAPI document with Node's tools; without Node it does the rest.
command -v npm >/dev/null || install_package Node npm ||
  echo "Node is not installed (Debian: sudo apt-get install nodejs npm): Redocly's rules and the clients in TypeScript are not checked" >&2
# Two tests drive a browser; without it, they say so and pass.
command -v chromium >/dev/null || command -v google-chrome >/dev/null || install_package Chromium chromium ||
  echo "Chromium is not installed (Debian: sudo apt-get install chromium): pages of other origins are not checked" >&2
# Each test of discovery starts an etcd of its own.
etcd_require

# The binaries of the shop in several processes.
binaries_of_the_tests
# Built first, so that no test's timeout includes the build; the tests that start processes use this very binary.
cargo build --workspace --all-targets --locked

# Everything that tests create is in this directory. Other users may enter it, because the servers run as users of their own.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/banyan-tests.XXXXXX")
export TMPDIR
chmod 755 "$TMPDIR"

# Stops the servers of all tests, and those of interrupted tests.
stop_servers() {
  local home
  for home in "$TMPDIR"/banyan-postgres*; do [ ! -d "$home" ] || POSTGRES_HOME=$home POSTGRES_KEEP='' postgres_stop; done
  for home in "$TMPDIR"/banyan-rabbitmq* "$TMPDIR"/banyan-broker*; do [ ! -d "$home" ] || rabbitmq_end "$home"; done
  rm -rf "$TMPDIR"
}
trap stop_servers EXIT
if [ -z "${BANYAN_TEST_POSTGRES:-}" ]; then
  # shellcheck disable=SC2119 # without a directory its data is removed at the end
  postgres_start
fi
if [ -z "${BANYAN_TEST_RABBITMQ:-}" ]; then
  rabbitmq_start
fi
cargo test --workspace --locked --no-fail-fast "$@"
