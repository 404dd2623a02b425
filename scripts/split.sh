#!/usr/bin/env bash
# Runs the shop in several processes on this machine, with one command: PostgreSQL, RabbitMQ, a process per module, the gateway in front. All of
# them are private and removed at the end. Ctrl-C stops everything.
#
#   scripts/split.sh                          everything split: seven services and the gateway, at http://127.0.0.1:8080
#   scripts/split.sh --group payments --group gateway,rest
#                                             two processes: payments, and one with the gateway and all other modules
#   scripts/split.sh stop payments            from another terminal: SIGTERM to that process; then `start payments`
#   scripts/split.sh status                   the processes with their addresses, pids and logs
#
# Commands: up (the default), start NAME, stop NAME, kill NAME (SIGKILL), restart NAME, status, logs NAME, down (like Ctrl-C, and waits for the end).
#
# Options of `up`:
#   --group [NAME=]A,B,...   runs these modules in one process; `gateway` stands for the gateway, `rest` for all modules in no other group. Repeatable.
#                            A module in no group has a process of its own. NAME is by default the modules joined by +
#   --instances NAME=N       the number of instances of that group; the others are named NAME.2, NAME.3 ... Repeatable
#   --port N                 the gateway's port (8080); 0 selects a free port
#   --discovery KIND         static (the default), dns, or etcd (which also starts a private etcd)
#   --mtls                   certificates for every process, and no plaintext between them
#   --keep DIR               keeps the database in DIR, and uses the one that is there
#   --release                builds optimised binaries
#   --no-build               uses the binaries of the last run
#   --print                  prints what would be built and started, and does nothing
#   --state DIR              the directory of pids, logs and sockets (target/split/run); two shops at the same time need two
#
# BANYAN_TEST_POSTGRES=postgres://superuser@host:port/postgres and BANYAN_TEST_RABBITMQ=amqp://... select your own servers: a new database is
# created there and dropped at the end. Every other BANYAN__* variable is passed to every process.
#
# Exit codes: 0 stopped on request; 1 failure, with the reason; 2 wrong command line; 130, 143 interrupted before everything was ready.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/postgres.sh
source scripts/lib/rabbitmq.sh
source scripts/lib/etcd.sh
source scripts/lib/binaries.sh
source scripts/lib/groups.sh
source scripts/lib/processes.sh

usage() { sed -n '2,/^set -e/s/^# \{0,1\}//p' "$0"; }
wrong() { echo "scripts/split.sh: $1 (see --help)" >&2; exit 2; }
fail() { echo "scripts/split.sh: $1" >&2; exit 1; }

state=target/split/run
verb=up name=
groups=() instances=()
port=8080 discovery=static mtls=0 keep='' profile=debug build=1 print=0

while [ $# -gt 0 ]; do
  case "$1" in
    --group | --instances | --port | --discovery | --keep | --state) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
  esac
  case "$1" in
    --group) groups+=("$2"); shift 2 ;;
    --instances) instances+=("$2"); shift 2 ;;
    --port) port=$2; shift 2 ;;
    --discovery) discovery=$2; shift 2 ;;
    --keep) keep=$2; shift 2 ;;
    --state) state=$2; shift 2 ;;
    --mtls) mtls=1; shift ;;
    --release) profile=release; shift ;;
    --no-build) build=0; shift ;;
    --print) print=1; shift ;;
    -h | --help) usage; exit 0 ;;
    up | status | down) verb=$1; shift ;;
    start | stop | kill | restart | logs) [ $# -ge 2 ] || wrong "$1 needs the name of a process"; verb=$1 name=$2; shift 2 ;;
    *) wrong "unknown option $1" ;;
  esac
done
case "$port" in '' | *[!0-9]*) wrong "--port $port: not a port number" ;; esac
case "$discovery" in static | dns | etcd) ;; *) wrong "--discovery $discovery: must be static, dns or etcd" ;; esac

# --- commands for a running shop ---

# True also while the shop is being built or started.
is_running() { kill -0 "$(cat "$state/pid" 2>/dev/null)" 2>/dev/null; }

# Sends a request to the script that runs the shop, which alone starts and stops its processes, and waits for the response.
request() {
  is_running || fail "no shop is running with the state in $state; start one with scripts/split.sh"
  [ -p "$state/control" ] || fail "the shop with the state in $state is not ready yet"
  local response="$state/response.$$"
  echo "$1 ${2:--} $$" >"$state/control"
  for _ in $(seq 600); do
    if [ -e "$response.done" ]; then
      tail -n +2 "$response"
      local code
      code=$(head -n 1 "$response")
      rm -f "$response" "$response.done"
      return "$code"
    fi
    is_running || { [ "$1" = down ] && return 0; fail "the shop has stopped"; }
    sleep 0.2
  done
  fail "no response within two minutes"
}

case "$verb" in
  logs)
    [ -e "$state/$name.log" ] || fail "$state/$name.log does not exist"
    exec tail -n 100 -f "$state/$name.log" ;;
  up) ;;
  *) request "$verb" "$name"; exit ;;
esac

# --- the plan ---

plan_groups ${groups[@]+"${groups[@]}"}
plan_instances ${instances[@]+"${instances[@]}"}
if is_running; then
  fail "a shop is already running with the state in $state (pid $(cat "$state/pid")); stop it with scripts/split.sh down, or choose another --state DIR"
fi
if [ "$print" = 1 ]; then
  plan_ports "$port"
  BANYAN_TEST_RABBITMQ=${BANYAN_TEST_RABBITMQ:-amqp://127.0.0.1:PORT/%2f}
  DATABASE_URL=${BANYAN_TEST_POSTGRES:-postgres://postgres@127.0.0.1:PORT/shop}
  ETCD_URL=http://127.0.0.1:PORT
  print_plan
  exit 0
fi

# --- start ---

began=$SECONDS ready=0 building='' database='' certificates=''
mkdir -p "$state"
state=$(cd "$state" && pwd)
rm -f "$state"/*.pid "$state"/*.log "$state"/response.* "$state/control"
echo $$ >"$state/pid"

# Stops in order: the gateway, the services, which finish their requests, then the servers. Runs however the script ends.
stop_everything() {
  local code=$?
  trap '' INT TERM
  trap - EXIT
  set +e
  [ -z "$building" ] || { kill "$building" 2>/dev/null; wait "$building" 2>/dev/null; }
  [ "$ready" = 0 ] || echo "Stopping."
  stop_processes_with_gateway
  stop_all_processes
  stop_servers
  [ -z "$certificates" ] || rm -rf "$certificates"
  rm -f "$state"/*.pid "$state/control" "$state/pid"
  [ "$code" = 0 ] || echo "The logs are in $state." >&2
  exit "$code"
}
trap stop_everything EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[ -n "${BANYAN_TEST_POSTGRES:-}" ] || postgres_require
[ -n "${BANYAN_TEST_RABBITMQ:-}" ] || rabbitmq_require
[ "$discovery" != etcd ] || etcd_require
if [ "$build" = 1 ]; then build_groups; else require_binaries; fi
plan_ports "$port"
start_servers
if [ "$mtls" = 1 ]; then
  certificates=$(mktemp -d "$state/certificates.XXXXXX")
  make_certificates
fi
start_services_then_gateway
ready=1 ending=0
# From here on a signal only sets a variable: some versions of bash crash when they exit inside of `read`.
trap 'ending=1' INT TERM HUP
mkfifo "$state/control"
# Opened for reading and writing, so that a read never finds its end.
exec 3<>"$state/control"
print_table

# --- until Ctrl-C ---

while [ "$ending" = 0 ]; do
  if read -r -t 1 verb name requester <&3; then
    serve_request "$verb" "$name" "$requester"
  fi
  report_ended_processes
done
true
