#!/usr/bin/env bash
# The test command: starts a private, throw-away PostgreSQL on a free port, runs every test of the workspace against it, and removes it.
#
#   scripts/test.sh                 everything, short counts (a few minutes after the build)
#   scripts/test.sh --full          the long counts: 50 kills per database instead of 5
#   scripts/test.sh -- NAME         only tests whose name contains NAME (whatever follows -- goes to cargo test)
#
# BANYAN_TEST_POSTGRES=postgres://superuser@host:port/postgres uses a server of yours instead.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/postgres.sh

export BANYAN_TEST_KILLS="${BANYAN_TEST_KILLS:-5}"
while [ $# -gt 0 ]; do
  case "$1" in
    --full) export BANYAN_TEST_KILLS=50; shift ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "scripts/test.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done

if [ -z "${BANYAN_TEST_POSTGRES:-}" ]; then
  postgres_require
fi

# Built before the clock of any test runs; the tests that start processes use this very binary.
cargo build --workspace --all-targets --locked

if [ -z "${BANYAN_TEST_POSTGRES:-}" ]; then
  postgres_start
  trap postgres_stop EXIT
fi
cargo test --workspace --locked "$@"
