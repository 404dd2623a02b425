# Plans which modules share a process, the number of instances of each, and their ports. Sourced by scripts/split.sh, not run.
#
# A group is a binary: GROUP_NAME[g], GROUP_PARTS[g] ("gateway users ..."). A process is one instance of it: PROCESS_NAME[p], PROCESS_GROUP[p],
# PROCESS_HTTP[p], PROCESS_RPC[p], PROCESS_ADMIN[p]; a port is 0 if the process has none.

# shellcheck source=scripts/lib/modules.sh
[ -n "${MODULES:-}" ] || source "$(dirname "${BASH_SOURCE[0]}")/modules.sh"

# has_word WORD "WORDS"
has_word() { case " $2 " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# The requested groups, then each remaining module, then the gateway; the group with the gateway is last, because it is started last.
plan_groups() {
  GROUP_NAME=() GROUP_PARTS=()
  local group list part named='' rest='' rest_at='' gateway_at=''
  for group in "$@"; do
    list=${group#*=}
    for part in ${list//,/ }; do
      [ "$part" = rest ] || has_word "$part" "gateway $MODULES" || wrong "--group $group: no module is named $part; the modules are: $MODULES, gateway, rest"
      ! has_word "$part" "$named" || wrong "--group $group: $part is in two groups"
      named="$named $part"
    done
    [ -n "${list//,/}" ] || wrong "--group $group names no module"
  done
  for part in $MODULES; do has_word "$part" "$named" || rest="$rest $part"; done
  for group in "$@"; do
    list=${group#*=}
    if has_word rest "${list//,/ }"; then
      rest_at=1
      list="${list//,/ } $rest"
    fi
    # In a fixed order, independent of the command line.
    local parts=''
    for part in gateway $MODULES; do ! has_word "$part" "${list//,/ }" || parts="$parts $part"; done
    parts=${parts# }
    [ -n "$parts" ] || wrong "--group $group: no module remains for it"
    if [ "$group" != "${group#*=}" ]; then add_group "${group%%=*}" "$parts"; else add_group "${group//,/+}" "$parts"; fi
  done
  if [ -z "$rest_at" ]; then for part in $rest; do add_group "$part" "$part"; done; fi
  has_word gateway "$named" || add_group gateway gateway
  # The group with the gateway comes last.
  local g
  for g in "${!GROUP_NAME[@]}"; do ! has_word gateway "${GROUP_PARTS[g]}" || gateway_at=$g; done
  local name=${GROUP_NAME[gateway_at]} parts=${GROUP_PARTS[gateway_at]}
  unset "GROUP_NAME[gateway_at]" "GROUP_PARTS[gateway_at]"
  GROUP_NAME=(${GROUP_NAME[@]+"${GROUP_NAME[@]}"} "$name")
  GROUP_PARTS=(${GROUP_PARTS[@]+"${GROUP_PARTS[@]}"} "$parts")
}

add_group() {
  case "$1" in '' | *[!a-z0-9+_-]*) wrong "a group's name consists of a-z, digits, -, _ and +, not $1" ;; esac
  ! has_word "$1" "${GROUP_NAME[*]-}" || wrong "two groups are named $1"
  GROUP_NAME+=("$1")
  GROUP_PARTS+=("$2")
}

plan_instances() {
  PROCESS_NAME=() PROCESS_GROUP=()
  local g requested count i
  for requested in "$@"; do
    case "$requested" in *=[1-9] | *=[1-9][0-9]) ;; *) wrong "--instances $requested: NAME=N, such as payments=2" ;; esac
    has_word "${requested%=*}" "${GROUP_NAME[*]}" || wrong "--instances $requested: no group is named ${requested%=*}; the groups are: ${GROUP_NAME[*]}"
  done
  for g in "${!GROUP_NAME[@]}"; do
    count=1
    for requested in "$@"; do [ "${requested%=*}" != "${GROUP_NAME[g]}" ] || count=${requested#*=}; done
    for ((i = 1; i <= count; i++)); do
      if [ "$i" = 1 ]; then PROCESS_NAME+=("${GROUP_NAME[g]}"); else PROCESS_NAME+=("${GROUP_NAME[g]}.$i"); fi
      PROCESS_GROUP+=("$g")
    done
  done
}

has_gateway() { has_word gateway "${GROUP_PARTS[${PROCESS_GROUP[$1]}]}"; }

# The modules of a process, without the gateway.
modules_of() {
  local parts=" ${GROUP_PARTS[${PROCESS_GROUP[$1]}]} "
  parts=${parts/ gateway / }
  echo "${parts# }"
}

# plan_ports GATEWAY_PORT: fixed ports if they are free, so that the next run has the same ones; REST from 8101, gRPC from 9101, admin from 9201.
plan_ports() {
  PROCESS_HTTP=() PROCESS_RPC=() PROCESS_ADMIN=() TAKEN=' '
  local p first_gateway=1
  for p in "${!PROCESS_NAME[@]}"; do
    if has_gateway "$p" && [ "$first_gateway" = 1 ]; then
      first_gateway=0
      if [ "$1" != 0 ] && is_taken "$1"; then fail "port $1 is in use; choose another with --port, or 0 for any free port"; fi
      find_port "$1"
    else
      find_port $((8101 + p))
    fi
    PROCESS_HTTP[p]=$FOUND_PORT PROCESS_RPC[p]=0 PROCESS_ADMIN[p]=0
    if [ -n "$(modules_of "$p" | tr -d ' ')" ]; then find_port $((9101 + p)); PROCESS_RPC[p]=$FOUND_PORT; fi
    # With mTLS a service's REST port requires a client certificate, so its health is served on another port.
    if [ "$mtls" = 1 ] && ! has_gateway "$p"; then find_port $((9201 + p)); PROCESS_ADMIN[p]=$FOUND_PORT; fi
  done
}

# Sets FOUND_PORT to the port, or to any free port if it is 0 or in use.
find_port() {
  FOUND_PORT=$1
  while [ "$FOUND_PORT" = 0 ] || has_word "$FOUND_PORT" "$TAKEN" || is_taken "$FOUND_PORT"; do
    FOUND_PORT=$(free_port)
  done
  TAKEN="$TAKEN$FOUND_PORT "
}
