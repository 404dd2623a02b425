#!/usr/bin/env bash
# Builds the binaries of the stages that tests run as several processes, each with the features of its role, into
# target/<profile>/placements/<role>/banyan. Sourced by scripts, or run by itself:
#
#   scripts/lib/placements.sh

# ROLE FEATURES
placements_build() {
  local target="${CARGO_TARGET_DIR:-target}/debug"
  mkdir -p "$target/placements/$1"
  cargo build --locked --quiet -p banyan --no-default-features --features "$2"
  # A copy, not a link: the next build overwrites the file it comes from.
  cp "$target/banyan" "$target/placements/$1/banyan"
}

placements_build_all() {
  local module
  for module in users catalog inventory payments shipping orders notifications; do
    placements_build "$module" "$module,rabbitmq"
  done
  placements_build gateway gateway,docs-ui
  placements_build stock-and-money inventory,payments,rabbitmq
  placements_build rest users,catalog,shipping,orders,notifications,gateway,rabbitmq,docs-ui
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  cd "$(dirname "$0")/../.."
  placements_build_all
fi
