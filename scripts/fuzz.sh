#!/usr/bin/env bash
# Fuzzes a running shop through its own OpenAPI document, as a customer, as staff and as an operator, with three seeds each. Starts a shop of
# its own on a free port with new data. Needs Python 3.9 or newer; installs schemathesis into target/fuzz.
#
#   scripts/fuzz.sh                 seeds 1, 2 and 3
#   scripts/fuzz.sh 7 8             these seeds
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)

mkdir -p target/fuzz
home=$(cd target/fuzz && pwd)
if [ ! -x "$home/venv/bin/st" ]; then
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install --quiet 'schemathesis>=4.30,<5'
fi

cargo build --locked -p banyan
data=$(mktemp -d "${TMPDIR:-/tmp}/banyan-fuzz.XXXXXX")
binary=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug/banyan
# The shop must not use the settings of the person who runs this, neither from the environment nor from a banyan.toml.
for name in "${!BANYAN_@}"; do unset "$name"; done
cd "$data"
# The fuzzer sends many wrong log-ins on purpose.
BANYAN__HTTP__LISTEN=127.0.0.1:0 BANYAN__DATA_DIR="$data" BANYAN__USERS__ADDRESS_FAILURES_BEFORE_DELAY=0 BANYAN__LOG__FILTER=warn \
  "$binary" serve >"$data/banner" 2>"$data/log" &
shop=$!
trap 'kill "$shop" 2>/dev/null; wait "$shop" 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do
  url=$(sed -n 's/^ *API *\(http:.*\)\/api\/v1$/\1/p' "$data/banner")
  [ -n "$url" ] && break
  kill -0 "$shop" 2>/dev/null || { cat "$data/log" >&2; exit 1; }
  sleep 0.1
done

failed=0
for seed in "${seeds[@]}"; do
  for user in demo staff ops; do
    token=$(curl -sS "$url/api/v1/sessions" -H 'Content-Type: application/json' \
      -d "{\"email\": \"$user@banyan.example\", \"password\": \"banyan-demo\"}" | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
    report="$home/$seed-$user.log"
    if "$home/venv/bin/st" run "$url/openapi.json" --seed "$seed" --max-examples 25 --workers 1 --phases examples,coverage,fuzzing \
      --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection \
      -H "Authorization: Bearer $token" >"$report" 2>&1; then
      echo "seed $seed as $user: $(grep -o '[0-9]* generated, .*' "$report")"
    else
      echo "seed $seed as $user: FAILED, see $report" >&2
      failed=1
    fi
  done
done
exit "$failed"
