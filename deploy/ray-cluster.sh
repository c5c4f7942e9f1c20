#!/usr/bin/env bash
# One machine's part in a Ray cluster of plain machines: start the head or a worker here, submit jobs, stop again.
#
#   deploy/ray-cluster.sh head                    on one machine; draws the token, prints what the others need
#   deploy/ray-cluster.sh worker HEAD:PORT        on each of the others, once CLUSTER_STATE/token lies there, too
#   deploy/ray-cluster.sh submit COMMAND...       on the head: ray job submit -- COMMAND...
#   deploy/ray-cluster.sh stop                    ends what this machine's head or worker started, and nothing else
#
# Settings, from the environment:
#   CLUSTER_STATE    folder of token, process id and log    (~/.local/state/eeg2fmri-ray)
#   CLUSTER_IP       this machine's address in the cluster  (Ray finds one)
#   CLUSTER_PORT, CLUSTER_DASHBOARD_PORT, CLUSTER_CLIENT_PORT    of the head  (6379, 8265, 10001)
#   CLUSTER_AGENT_PORT, CLUSTER_METRICS_PORT                     of each node (52365, 0: any)
#   CLUSTER_CPUS, CLUSTER_GPUS    what jobs may use here    (all; 0 on a head that shall only drive)
#   CLUSTER_OBJECT_STORE_BYTES    memory for objects here   (Ray's default: 30 % of the machine's)
#   CLUSTER_TEMPORARY             Ray's files, a short path (/tmp/ray-eeg2fmri)
# What jobs need (EEG2FMRI_..., AWS_..., PGPASSFILE) must be set when `head` and `worker` run; jobs inherit it.
set -euo pipefail

state=${CLUSTER_STATE:-$HOME/.local/state/eeg2fmri-ray}
temporary=${CLUSTER_TEMPORARY:-/tmp/ray-eeg2fmri}
dashboard_port=${CLUSTER_DASHBOARD_PORT:-8265}
start_seconds=120 stop_seconds=30

fail() {
    echo "error: $*" >&2
    exit 2
}

# A process is known by its id and by when it started: ids are given again.
started() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null || true; }

is_running() {
    local pid began
    read -r pid began 2>/dev/null <"$state/process" || return 1
    [[ $(started "$pid") == "$began" ]]
}

# Print a process and all below it.
family() {
    local child
    echo "$1"
    for child in $(ps -o pid= --ppid "$1"); do family "$child"; done
}

make_state() {
    mkdir -p "$state"
    chmod 700 "$state"
}

# Start ray with these words and wait until its log says that it runs.
start() {
    is_running && fail "a head or worker already runs here (see $state/log); stop it first: $0 stop"
    make_state
    : >"$state/log"
    local words=("$@" --block --disable-usage-stats "--dashboard-agent-listen-port=${CLUSTER_AGENT_PORT:-52365}"
        "--metrics-export-port=${CLUSTER_METRICS_PORT:-0}")
    [[ -n ${CLUSTER_IP:-} ]] && words+=("--node-ip-address=$CLUSTER_IP")
    [[ -n ${CLUSTER_CPUS:-} ]] && words+=("--num-cpus=$CLUSTER_CPUS")
    [[ -n ${CLUSTER_GPUS:-} ]] && words+=("--num-gpus=$CLUSTER_GPUS")
    [[ -n ${CLUSTER_OBJECT_STORE_BYTES:-} ]] && words+=("--object-store-memory=$CLUSTER_OBJECT_STORE_BYTES")
    setsid ray start "${words[@]}" >"$state/log" 2>&1 </dev/null &
    local pid=$!
    echo "$pid $(started "$pid")" >"$state/process"
    local deadline=$((SECONDS + start_seconds))
    until grep -q 'Ray runtime started' "$state/log" || ! is_running || ((SECONDS > deadline)); do sleep 0.2; done
    sleep 2 # Ray first looks at its own processes a second after it says so
    if ! is_running || ! grep -q 'Ray runtime started' "$state/log"; then
        tail -n 20 "$state/log" >&2
        stop >/dev/null
        fail "Ray did not start; its last words stand above"
    fi
}

authenticate() {
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
    unset RAY_AUTH_TOKEN
}

head_node() {
    make_state
    [[ -s $state/token ]] || (umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$state/token")
    authenticate
    start --head "--port=${CLUSTER_PORT:-6379}" "--ray-client-server-port=${CLUSTER_CLIENT_PORT:-10001}" \
        --dashboard-host=127.0.0.1 "--dashboard-port=$dashboard_port" "--temp-dir=$temporary"
    local address
    address=$(grep -o "[0-9.]*:${CLUSTER_PORT:-6379}" "$state/log" | tail -n 1)
    cat <<EOF
the head runs at $address; jobs are submitted at http://127.0.0.1:$dashboard_port, on this machine only
on each worker, in the same environment:

    mkdir -p $state && scp $HOSTNAME:$state/token $state/token
    $0 worker $address

to submit from a shell of this machine:

    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token RAY_ADDRESS=http://127.0.0.1:$dashboard_port
EOF
}

worker_node() {
    [[ $# == 1 && $1 == *:* ]] || fail "worker needs the head's address, HOST:PORT, but got: $*"
    [[ -s $state/token ]] || fail "there is no token at $state/token; copy the head's there, with mode 600"
    chmod 600 "$state/token"
    authenticate
    start "--address=$1"
    echo "this machine has joined $1"
}

submit() {
    (($#)) || fail "submit needs a command, as: submit python -m platform.search transformer"
    authenticate
    RAY_ADDRESS=http://127.0.0.1:$dashboard_port exec ray job submit -- "$@"
}

stop() {
    if ! is_running; then
        echo "nothing ran"
        return
    fi
    local pid own deadline=$((SECONDS + stop_seconds))
    read -r pid _ <"$state/process"
    own=$(for each in $(family "$pid"); do echo "$each:$(started "$each")"; done)
    kill -TERM "$pid"
    while is_running && ((SECONDS < deadline)); do sleep 0.2; done
    local each
    for each in $own; do # what is left, by its id and only if it still is the same process
        if [[ -n ${each#*:} && $(started "${each%%:*}") == "${each#*:}" ]]; then
            kill -KILL "${each%%:*}" 2>/dev/null || true
        fi
    done
    rm -f "$state/process"
    echo "stopped"
}

verb=${1:-}
shift || true
case $verb in
    head) head_node ;;
    worker) worker_node "$@" ;;
    submit) submit "$@" ;;
    stop) stop ;;
    *) fail "the first word must be head, worker, submit or stop, but got: ${verb:-nothing}" ;;
esac
