# A private etcd in a directory of its own. Sourced, not run.

# shellcheck source=scripts/lib/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# Finds the server, installs it if possible (as root, with apt-get), or prints what to install.
etcd_require() {
  command -v etcd >/dev/null && return
  install_package etcd etcd-server && command -v etcd >/dev/null && return
  cat >&2 <<'WHAT'
Discovery by etcd needs etcd 3.4 or newer (its program, not a running server). Install it:
  Debian, Ubuntu:  sudo apt-get install etcd-server
  macOS:           brew install etcd
or use --discovery static.
WHAT
  return 1
}

# etcd_start CLIENT_PORT PEER_PORT: starts it, waits until it responds, and sets ETCD_URL.
etcd_start() {
  ETCD_HOME=$(mktemp -d "${TMPDIR:-/tmp}/banyan-etcd.XXXXXX")
  ETCD_URL=http://127.0.0.1:$1
  set -m
  etcd --name banyan --data-dir "$ETCD_HOME/data" --listen-client-urls "$ETCD_URL" --advertise-client-urls "$ETCD_URL" \
    --listen-peer-urls "http://127.0.0.1:$2" --initial-advertise-peer-urls "http://127.0.0.1:$2" \
    --initial-cluster "banyan=http://127.0.0.1:$2" >"$ETCD_HOME/log" 2>&1 &
  ETCD_PID=$!
  set +m
  for _ in $(seq 150); do
    if curl -fsS -m 1 "$ETCD_URL/health" 2>/dev/null | grep -q true; then return; fi
    kill -0 "$ETCD_PID" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 20 "$ETCD_HOME/log" >&2
  return 1
}

etcd_stop() {
  kill "$ETCD_PID" 2>/dev/null || true
  wait "$ETCD_PID" 2>/dev/null || true
  rm -rf "$ETCD_HOME"
}
