# Builds, starts, watches and stops the processes of a shop and their servers. Sourced by scripts/split.sh, not run.

readonly READY_LIMIT_S=60
# Longer than http.shutdown_timeout_ms, the time in which a process finishes what it accepted.
readonly STOP_LIMIT_S=30
PROCESS_PID=()

binary_of() { binary_at "$profile" "${GROUP_PARTS[$1]}"; }

build_command() { binary_command "$profile" "${GROUP_PARTS[$1]}"; }

# Builds one after the other, in the usual target directory.
build_groups() {
  local g
  for g in "${!GROUP_NAME[@]}"; do
    echo "Building ${GROUP_NAME[g]}: $(build_command "$g")"
    # In the background, because only then does a signal reach this script at once.
    # shellcheck disable=SC2091 # the words of the command are the command to run
    $(build_command "$g") &
    building=$!
    wait "$building" || fail "building ${GROUP_NAME[g]} failed"
    building=''
    binary_store "$profile" "${GROUP_PARTS[g]}"
  done
}

require_binaries() {
  local g
  for g in "${!GROUP_NAME[@]}"; do
    [ -x "$(binary_of "$g")" ] || fail "$(binary_of "$g") does not exist; run once without --no-build"
  done
}

# --- the servers: PostgreSQL, RabbitMQ, etcd ---

# One database with a schema and a login per module: with a kept database, the next run can group the modules differently, without moving data.
start_servers() {
  local etcd_client etcd_peer found
  if [ -z "${BANYAN_TEST_POSTGRES:-}" ]; then
    if [ -n "$keep" ]; then
      mkdir -p "$keep"
      keep=$(cd "$keep" && pwd)
    fi
    own_postgres=1
    postgres_start ${keep:+"$keep/postgres"}
    database=shop
  else
    [ -z "$keep" ] || fail "--keep is for the private PostgreSQL; BANYAN_TEST_POSTGRES selects your own server"
    POSTGRES_BIN=${POSTGRES_BIN:-$(postgres_find || true)}
    database=banyan_split_$$
  fi
  DATABASE_URL=${BANYAN_TEST_POSTGRES%/*}/$database
  found=$(sql "select count(*) from pg_database where datname = '$database'") || fail "PostgreSQL does not respond at $BANYAN_TEST_POSTGRES"
  if [ "$found" = 0 ]; then
    sql "create database \"$database\"" >/dev/null
  fi
  if [ -z "${BANYAN_TEST_RABBITMQ:-}" ]; then
    own_rabbitmq=1
    rabbitmq_start
  fi
  if [ "$discovery" = etcd ]; then
    find_port 2479; etcd_client=$FOUND_PORT
    find_port 2480; etcd_peer=$FOUND_PORT
    own_etcd=1
    etcd_start "$etcd_client" "$etcd_peer"
  fi
}

sql() {
  PATH="${POSTGRES_BIN:+$POSTGRES_BIN:}$PATH" psql -XAtq -v ON_ERROR_STOP=1 "$BANYAN_TEST_POSTGRES" -c "$1"
}

# Stops only what start_servers has started, also if it failed half-way.
stop_servers() {
  [ "${own_etcd:-0}" = 0 ] || etcd_stop
  [ "${own_rabbitmq:-0}" = 0 ] || rabbitmq_stop
  if [ "${own_postgres:-0}" = 1 ]; then
    postgres_stop
    [ -z "$keep" ] || echo "The database is kept in $keep/postgres; use it again with --keep $keep."
  elif [ -n "$database" ]; then
    sql "drop database if exists \"$database\" with (force)" >/dev/null
    # Logins belong to the whole server; their names begin with the database's name.
    local role
    for role in $(sql "select rolname from pg_roles where rolname like '${database//_/\\_}\\_%'"); do sql "drop role \"$role\"" >/dev/null; done
  fi
}

# Makes a certificate authority for this run alone, and a certificate per process, which names all that is in it.
make_certificates() {
  local p names=()
  for p in "${!PROCESS_NAME[@]}"; do
    has_word "$(certificate_of "$p")" "${names[*]-}" || names+=("$(certificate_of "$p")")
  done
  scripts/dev-certs "$certificates" "${names[@]}" >"$state/certificates.log" || fail "scripts/dev-certs failed: $(cat "$state/certificates.log")"
}

# --- one process ---

# Prints a process's settings, one variable per line.
environment_of() {
  local p=$1 own remote scheme=http
  own=$(modules_of "$p")
  [ "$mtls" = 0 ] || scheme=https
  echo "BANYAN__PROFILE=demo"
  echo "BANYAN__HTTP__LISTEN=127.0.0.1:${PROCESS_HTTP[p]}"
  echo "BANYAN__DATA_DIR=$state/data-${PROCESS_NAME[p]}"
  # A service trusts the gateway's headers about the client's address.
  has_gateway "$p" || echo "BANYAN__HTTP__TRUSTED_PROXIES=127.0.0.1"
  [ "${PROCESS_ADMIN[p]}" = 0 ] || echo "BANYAN__ADMIN__LISTEN=127.0.0.1:${PROCESS_ADMIN[p]}"
  if [ "${PROCESS_RPC[p]}" != 0 ]; then
    echo "BANYAN__RPC__LISTEN=127.0.0.1:${PROCESS_RPC[p]}"
    echo "BANYAN__DATABASE__URL=$DATABASE_URL"
    echo "BANYAN__BUS__URL=$BANYAN_TEST_RABBITMQ"
    # Your own broker may carry the events of another shop.
    [ "${own_rabbitmq:-0}" = 1 ] || echo "BANYAN__BUS__EXCHANGE=banyan-split-$$"
  fi
  echo "BANYAN__DISCOVERY__KIND=$discovery"
  if [ "$discovery" = etcd ]; then
    echo "BANYAN__DISCOVERY__ETCD_ENDPOINTS=$ETCD_URL"
  else
    for remote in $MODULES; do
      has_word "$remote" "$own" || endpoints_of "$remote" "$scheme"
    done
  fi
  if [ "$mtls" = 1 ]; then
    local of
    of=$(certificate_of "$p")
    echo "BANYAN__MTLS__CA_FILE=$certificates/ca.pem"
    echo "BANYAN__MTLS__CERTIFICATE_FILE=$certificates/$of.pem"
    echo "BANYAN__MTLS__KEY_FILE=$certificates/$of-key.pem"
  fi
}

# certificate_of P: prints the name of a process's certificate: all its parts.
certificate_of() { local parts=${GROUP_PARTS[${PROCESS_GROUP[$1]}]}; echo "${parts// /+}"; }

# Prints the endpoints of a module: those of every instance of its group.
endpoints_of() {
  local q rpc='' http='' variable
  for q in "${!PROCESS_NAME[@]}"; do
    has_word "$1" "$(modules_of "$q")" || continue
    rpc="$rpc,$2://127.0.0.1:${PROCESS_RPC[q]}"
    http="$http,$2://127.0.0.1:${PROCESS_HTTP[q]}"
  done
  variable=BANYAN__MODULES__$(echo "$1" | tr '[:lower:]' '[:upper:]')
  echo "${variable}__ENDPOINT=${rpc#,}"
  echo "${variable}__HTTP_ENDPOINT=${http#,}"
}

start_process() {
  local p=$1 line settings=()
  while IFS= read -r line; do settings+=("$line"); done < <(environment_of "$p")
  # A process group of its own: Ctrl-C is for this script, which stops them in order.
  set -m
  env "${settings[@]}" "$(binary_of "${PROCESS_GROUP[p]}")" serve >>"$state/${PROCESS_NAME[p]}.log" 2>&1 3>&- &
  PROCESS_PID[p]=$!
  set +m
  echo "${PROCESS_PID[p]}" >"$state/${PROCESS_NAME[p]}.pid"
}

is_alive() { [ -n "${PROCESS_PID[$1]:-}" ] && kill -0 "${PROCESS_PID[$1]}" 2>/dev/null; }

# Waits until a process is ready; returns 1 if it ended, or is not ready in time.
await_ready() {
  local p=$1 until=$((SECONDS + READY_LIMIT_S)) listens
  listens=${PROCESS_HTTP[p]}
  [ "${PROCESS_ADMIN[p]}" = 0 ] || listens=${PROCESS_ADMIN[p]}
  while is_alive "$p" && [ "$SECONDS" -lt "$until" ]; do
    ! curl -fsS -m 2 -o /dev/null "http://127.0.0.1:$listens/health/ready" 2>/dev/null || return 0
    sleep 0.2
  done
  return 1
}

# log_tail P: prints the end of its log, to explain why it ended.
log_tail() { tail -n 15 "$state/${PROCESS_NAME[$1]}.log" | sed 's/^/    /'; }

# start_and_await P...: starts all, then waits for each.
start_and_await() {
  local p
  for p in "$@"; do start_process "$p"; done
  for p in "$@"; do
    if ! await_ready "$p"; then
      { echo "${PROCESS_NAME[p]} did not become ready. The end of $state/${PROCESS_NAME[p]}.log:"; log_tail "$p"; } >&2
      exit 1
    fi
  done
}

start_services_then_gateway() {
  local p services=() gateways=()
  for p in "${!PROCESS_NAME[@]}"; do
    if has_gateway "$p"; then gateways+=("$p"); else services+=("$p"); fi
  done
  echo "Starting ${PROCESS_NAME[*]}."
  [ ${#services[@]} = 0 ] || start_and_await "${services[@]}"
  start_and_await "${gateways[@]}"
}

# stop_processes SIGNAL P...: signals all; those that do not end in time are killed.
stop_processes() {
  local signal=$1 p until=$((SECONDS + STOP_LIMIT_S)) alive=1
  shift
  for p in "$@"; do ! is_alive "$p" || kill "-$signal" "${PROCESS_PID[p]}" 2>/dev/null || true; done
  while [ "$alive" = 1 ] && [ "$SECONDS" -lt "$until" ]; do
    alive=0
    for p in "$@"; do ! is_alive "$p" || alive=1; done
    [ "$alive" = 0 ] || sleep 0.1
  done 2>/dev/null # bash would print "Killed", with a line of this file
  for p in "$@"; do
    if is_alive "$p"; then
      echo "${PROCESS_NAME[p]} did not end within $STOP_LIMIT_S s and is killed." >&2
      kill -KILL "${PROCESS_PID[p]}" 2>/dev/null || true
    fi
    [ -z "${PROCESS_PID[p]:-}" ] || wait "${PROCESS_PID[p]}" 2>/dev/null || true
    PROCESS_PID[p]=''
    rm -f "$state/${PROCESS_NAME[p]}.pid"
  done
}

stop_processes_with_gateway() {
  local p gateways=()
  for p in "${!PROCESS_NAME[@]}"; do ! has_gateway "$p" || gateways+=("$p"); done
  [ ${#gateways[@]} = 0 ] || stop_processes TERM "${gateways[@]}"
}

stop_all_processes() {
  [ -z "${PROCESS_NAME[*]-}" ] || stop_processes TERM "${!PROCESS_NAME[@]}"
}

# --- while they run ---

# Reports a process that ended by itself, once. The others continue.
report_ended_processes() {
  local p code
  for p in "${!PROCESS_NAME[@]}"; do
    if [ -n "${PROCESS_PID[p]:-}" ] && ! is_alive "$p"; then
      code=0
      wait "${PROCESS_PID[p]}" 2>/dev/null || code=$?
      PROCESS_PID[p]=''
      rm -f "$state/${PROCESS_NAME[p]}.pid"
      { echo "${PROCESS_NAME[p]} has ended by itself (exit code $code); the others continue. The end of its log:"; log_tail "$p"
        echo "Start it again: scripts/split.sh start ${PROCESS_NAME[p]}"; } >&2
    fi
  done
}

# serve_request VERB NAME REQUESTER: runs a command from another terminal, and writes the response to the file that it waits for.
serve_request() {
  local response="$state/response.$3" code=0 text
  if [ "$1" = down ]; then
    ending=1
    return
  fi
  # Not in a subshell, so that the processes it starts are children of this script.
  act_on "$1" "$2" >"$response.text" 2>&1 || code=$?
  text=$(cat "$response.text")
  rm -f "$response.text"
  [ "$1" = status ] || echo "$text"
  printf '%s\n%s\n' "$code" "$text" >"$response"
  : >"$response.done"
}

act_on() {
  local p found=''
  if [ "$1" = status ]; then print_table; return; fi
  for p in "${!PROCESS_NAME[@]}"; do [ "${PROCESS_NAME[p]}" != "$2" ] || found=$p; done
  if [ -z "$found" ]; then echo "no process is named $2; the processes are: ${PROCESS_NAME[*]}"; return 1; fi
  case "$1" in
    stop) stop_processes TERM "$found"; echo "$2 is stopped." ;;
    kill) stop_processes KILL "$found"; echo "$2 is killed." ;;
    start | restart)
      [ "$1" = start ] || stop_processes TERM "$found"
      if is_alive "$found"; then echo "$2 is already running."; return; fi
      start_process "$found"
      if ! await_ready "$found"; then echo "$2 did not become ready. The end of its log:"; log_tail "$found"; return 1; fi
      echo "$2 is ready, with pid ${PROCESS_PID[found]}." ;;
    *) echo "unknown command $1"; return 2 ;;
  esac
}

# --- output ---

print_table() {
  local p gateway='' pid rpc
  for p in "${!PROCESS_NAME[@]}"; do ! has_gateway "$p" || gateway=${gateway:-http://127.0.0.1:${PROCESS_HTTP[p]}}; done
  echo
  echo "The shop is running in ${#PROCESS_NAME[@]} processes; started $((SECONDS - began)) s ago."
  echo "  API         $gateway/api/v1"
  echo "  docs        $gateway/docs"
  echo "  OpenAPI     $gateway/openapi.json"
  echo "  PostgreSQL  $DATABASE_URL"
  echo "  RabbitMQ    $BANYAN_TEST_RABBITMQ"
  [ "$discovery" != etcd ] || echo "  etcd        $ETCD_URL"
  echo "  profile     demo: demo@banyan.example, staff@banyan.example, ops@banyan.example; password banyan-demo"
  echo
  printf '%-20s %-22s %-16s %-8s %s\n' process REST gRPC pid log
  for p in "${!PROCESS_NAME[@]}"; do
    pid=stopped
    ! is_alive "$p" || pid=${PROCESS_PID[p]}
    rpc=-
    [ "${PROCESS_RPC[p]}" = 0 ] || rpc=127.0.0.1:${PROCESS_RPC[p]}
    printf '%-20s %-22s %-16s %-8s %s\n' "${PROCESS_NAME[p]}" "http://127.0.0.1:${PROCESS_HTTP[p]}" "$rpc" "$pid" "$state/${PROCESS_NAME[p]}.log"
  done
  echo
  echo "Ctrl-C stops everything. From another terminal: scripts/split.sh stop NAME, start NAME, kill NAME, status."
}

print_plan() {
  local g p line certificates="$state/certificates"
  for g in "${!GROUP_NAME[@]}"; do
    build_command "$g"
    echo "cp ${CARGO_TARGET_DIR:-target}/$profile/banyan $(binary_of "$g")"
  done
  for p in "${!PROCESS_NAME[@]}"; do
    echo
    echo "# ${PROCESS_NAME[p]}"
    while IFS= read -r line; do echo "$line \\"; done < <(environment_of "$p")
    echo "  $(binary_of "${PROCESS_GROUP[p]}") serve"
  done
}
