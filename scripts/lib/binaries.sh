#!/usr/bin/env bash
# Builds binaries that contain some of the modules, each into target/<profile>/placements/PART+PART/banyan. Sourced by scripts; run by itself, it builds
# the binaries that the tests start:
#
#   scripts/lib/binaries.sh

# shellcheck source=scripts/lib/modules.sh
[ -n "${MODULES:-}" ] || source "$(dirname "${BASH_SOURCE[0]}")/modules.sh"

# binary_features "PARTS": prints the features of a binary with these parts: modules, and `gateway`.
binary_features() {
  local features=${1// /,},etcd
  case " $1 " in *" gateway "*) features="$features,docs-ui" ;; esac
  # The gateway alone neither publishes nor consumes events.
  [ "$1" = gateway ] || features="$features,rabbitmq"
  echo "$features"
}

# binary_command PROFILE "PARTS"
binary_command() {
  local release=''
  [ "$1" = debug ] || release=' --release'
  echo "cargo build --locked -p banyan$release --no-default-features --features $(binary_features "$2")"
}

# binary_at PROFILE "PARTS"
binary_at() { echo "${CARGO_TARGET_DIR:-target}/$1/placements/${2// /+}/banyan"; }

# binary_store PROFILE "PARTS": stores the last build at its path.
binary_store() {
  local binary
  binary=$(binary_at "$1" "$2")
  mkdir -p "$(dirname "$binary")"
  # A copy, because the next build overwrites its source; moved into place afterwards, because the old one may still be running.
  cp "${CARGO_TARGET_DIR:-target}/$1/banyan" "$binary.new"
  mv -f "$binary.new" "$binary"
}

# binary_build "PARTS": builds without output, for tests.
binary_build() {
  $(binary_command debug "$1") --quiet
  binary_store debug "$1"
}

# The binaries of the stages in tests/src/harness/stage.rs.
binaries_of_the_tests() {
  local module rest=gateway
  for module in $MODULES gateway; do
    binary_build "$module"
  done
  binary_build "inventory payments"
  for module in $MODULES; do
    case "$module" in inventory | payments) ;; *) rest="$rest $module" ;; esac
  done
  binary_build "$rest"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  cd "$(dirname "$0")/../.."
  binaries_of_the_tests
fi
