#!/usr/bin/env bash
# Validates deploy/: YAML with yamllint, compose.yaml against the Compose specification, the manifests strictly against the schemas of Kubernetes, and
# the kustomizations if kubectl or kustomize is installed. It uses no network except the Python package registry, once.
#
#   scripts/validate-deploy.sh                  deploy/
#   scripts/validate-deploy.sh FILE...          only these manifests
#
# Needs Python 3.9 or newer; its tools are installed into target/validate-deploy. Exit codes: 0 valid; 1 invalid, or a tool is missing.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set -e/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
root=$(cd "$(dirname "$0")/.." && pwd)
home=$root/target/validate-deploy
tools=$home/venv/bin

if [ ! -e "$home/ready-1" ]; then
  rm -rf "$home"
  mkdir -p "$home"
  if ! python3 -m venv "$home/venv" >"$home/log" 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "Python cannot make a virtual environment; installing Debian's package python3-venv."
      apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv >/dev/null
      rm -rf "$home/venv"
      python3 -m venv "$home/venv"
    else
      cat "$home/log" >&2
      echo "scripts/validate-deploy.sh: needs Python 3.9 with venv; Debian, Ubuntu: sudo apt-get install python3-venv" >&2
      exit 1
    fi
  fi
  "$tools/pip" install --quiet --disable-pip-version-check 'kubernetes-validate>=1.32,<2' 'check-jsonschema>=0.33,<1' 'yamllint>=1.35,<2'
  touch "$home/ready-1"
fi

manifests() { "$tools/kubernetes-validate" --strict --quiet "$@"; }
if [ $# -gt 0 ]; then
  manifests "$@"
  exit
fi

cd "$root/deploy"
echo "yaml"
"$tools/yamllint" --strict -d '{extends: default, ignore: [secrets], rules: {line-length: {max: 150}, document-start: disable, comments-indentation: disable,
  braces: {max-spaces-inside: 0}, brackets: {max-spaces-inside: 0}, truthy: {allowed-values: ["true", "false"]}}}' .
echo "compose"
"$tools/check-jsonschema" --color never --builtin-schema vendor.compose-spec compose.yaml
echo "manifests"
# All files but lists of manifests and patches, which are not manifests by themselves.
find kubernetes -name '*.yaml' ! -name kustomization.yaml ! -name sidecar.yaml ! -name users-signing-key.yaml -print0 |
  xargs -0 "$tools/kubernetes-validate" --strict --quiet
if command -v kubectl >/dev/null; then build='kubectl kustomize'; elif command -v kustomize >/dev/null; then build='kustomize build'; else build=''; fi
if [ -n "$build" ]; then
  echo "kustomizations"
  built=$(mktemp -d "$home/built.XXXXXX")
  trap 'rm -rf "$built"' EXIT
  # The third is the shop with the component that is commented out in the first.
  mkdir "$built/with-sidecar"
  printf 'resources:\n  - ../../../../deploy/kubernetes\ncomponents:\n  - ../../../../deploy/kubernetes/otel-collector\n' >"$built/with-sidecar/kustomization.yaml"
  $build kubernetes >"$built/shop.yaml"
  $build kubernetes/example-infrastructure >"$built/infrastructure.yaml"
  $build "$built/with-sidecar" >"$built/with-sidecar.yaml"
  grep -q 'SERVICE_NAME' "$built/with-sidecar.yaml"
  if grep 'image: banyan-' "$built/shop.yaml"; then
    echo "scripts/validate-deploy.sh: these images have no registry; see the replacements in deploy/kubernetes/kustomization.yaml" >&2
    exit 1
  fi
  manifests "$built"/*.yaml
else
  echo "kustomizations: skipped, neither kubectl nor kustomize is installed"
fi
echo "deploy/ is valid."
