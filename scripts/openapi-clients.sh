#!/usr/bin/env bash
# Validates the OpenAPI document with validators that others wrote, generates clients from it, compiles them, and lets each buy something in a running
# demo shop. It uses no network except the package registries, once: the tools are installed into target/openapi-clients, with their versions pinned.
#
#   scripts/openapi-clients.sh DOCUMENT URL     the document's file, and the address of a shop, such as http://127.0.0.1:8080
#
# Needs Python 3.11 or newer with venv, and Node 20 or newer for Redocly's rules and the clients in TypeScript. Without one of them, or without a registry to
# install the tools from, it says what is not checked, and fails if BANYAN_TEST_CLIENTS=required. Exit codes: 0 all that was checked is well; 1 it is not, or
# something is missing that is required; 2 usage.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,/^set -e/s/^# \{0,1\}//p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
document=$(realpath "$1") url=$2
home=$root/target/openapi-clients
source "$root/scripts/lib/machine.sh"
mkdir -p "$home"
# Two runs at a time would install over each other.
exec 9>"$home/lock"
flock 9

# Ends the run, because a tool is missing.
not_checked() {
  echo "scripts/openapi-clients.sh: $1 is NOT checked: $2" >&2
  [ "${BANYAN_TEST_CLIENTS:-}" != required ] || exit 1
  exit 0
}

python_tools() {
  [ -e "$home/python-1" ] && return
  rm -rf "$home/venv"
  if ! python3 -m venv "$home/venv" >"$home/log" 2>&1; then
    rm -rf "$home/venv"
    install_package "Python's venv" python3-venv || true
    python3 -m venv "$home/venv" || not_checked "the document" "Python 3.11 with venv is missing (Debian, Ubuntu: sudo apt-get install python3-venv)"
  fi
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check openapi-spec-validator==0.9.0 openapi-python-client==0.29.1 ||
    not_checked "the document" "its validators could not be installed from PyPI"
  touch "$home/python-1"
}

node_tools() {
  [ -e "$home/node-1" ] && return
  rm -rf "$home/node_modules" "$home/package-lock.json"
  echo '{"private": true}' >"$home/package.json"
  (cd "$home" && npm install --silent --no-audit --no-fund --save-exact @redocly/cli@2.77.0 openapi-typescript@7.13.0 openapi-fetch@0.17.0 \
    @hey-api/openapi-ts@0.95.0 typescript@5.9.3 esbuild@0.25.12 @types/node@20.19.25) ||
    not_checked "the document by Redocly's rules and by clients in TypeScript" "the tools could not be installed from the npm registry"
  touch "$home/node-1"
}

# Runs a step quietly; its output is shown if it fails.
step() {
  local name=$1
  shift
  if ! "$@" >"$home/log" 2>&1; then
    echo "$name FAILED:" >&2
    cat "$home/log" >&2
    exit 1
  fi
  echo "$name: ok"
}

python_tools
bin=$home/venv/bin
export PATH="$bin:$PATH"
step "openapi-spec-validator" "$bin/openapi-spec-validator" "$document"
rm -rf "$home/python-client"
step "openapi-python-client generates" "$bin/openapi-python-client" generate --meta none --path "$document" --output-path "$home/python-client/banyan_client"
if grep -q 'Unable to' "$home/log"; then
  echo "openapi-python-client leaves something out:" >&2
  cat "$home/log" >&2
  exit 1
fi
step "its client compiles" "$bin/python" -m compileall -q "$home/python-client"
step "its client buys" env PYTHONPATH="$home/python-client" "$bin/python" "$root/tests/clients/buy.py" "$url"

command -v npm >/dev/null || install_package Node npm ||
  not_checked "the document by Redocly's rules and by clients in TypeScript" "Node is missing (Debian: sudo apt-get install nodejs npm)"
node_tools
cd "$home"
run() { "$home/node_modules/.bin/$1" "${@:2}"; }
printf 'extends: [recommended]\ntelemetry: off\n' >redocly.yaml
step "Redocly's rules" run redocly lint "$document" --config redocly.yaml --format=stylish
rm -rf typescript && mkdir typescript
cp "$root"/tests/clients/*.ts typescript/
step "openapi-typescript generates" run openapi-typescript "$document" --output typescript/schema.ts
step "hey-api generates" run openapi-ts --input "$document" --output typescript/hey-api
step "their clients compile" run tsc --noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution bundler --lib es2022,dom,dom.iterable \
  --types node typescript/fetch.ts typescript/hey.ts
for client in fetch hey; do
  step "$client.ts is bundled" run esbuild "typescript/$client.ts" --bundle --platform=node --format=esm --outfile="typescript/$client.mjs" --log-level=error
  step "$client.ts buys" node "typescript/$client.mjs" "$url"
done
