#!/usr/bin/env bash
# A Kafka broker on loopback for the demo and for trying things: scripts/kafka.sh fetch|start|stop|status [--data DIR] [--port N]
# fetch: its jars into build/kafka/libs, by Maven, checked against scripts/kafka/jars.sha256. The tests start brokers of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly HOME_DIR=$PWD/build/kafka
readonly LIBS=$HOME_DIR/libs
readonly CHECKED=$HOME_DIR/checked
# KAFKA_HEAP_OPTS is Kafka's own variable.
readonly HEAP=${KAFKA_HEAP_OPTS:--Xms256m -Xmx1g}

say() { printf '%s\n' "kafka: $*" >&2; }
die() { printf '%s\n' "kafka: $*" >&2; exit 1; }

action=${1:-}
[[ $# -gt 0 ]] && shift
data=$HOME_DIR/data
port=9092
while [[ $# -gt 0 ]]; do
    case $1 in
        --data) data=${2:?expected a folder after --data}; shift 2 ;;
        --port) port=${2:?expected a port after --port}; shift 2 ;;
        *) die "expected --data DIR or --port N, got $1" ;;
    esac
done
[[ $port =~ ^[0-9]+$ && $port -ge 1024 && $port -le 64535 ]] || die "expected --port 1024 to 64535, got $port"
[[ $data == /* ]] || data=$PWD/$data
readonly controller_port=$((port + 1000)) pid_file=$data/broker.pid config=$data/server.properties

fetch() {
    if [[ -f $CHECKED ]] && cmp -s "$CHECKED" scripts/kafka/jars.sha256; then touch "$CHECKED"; return; fi
    command -v mvn >/dev/null || die "expected mvn on the PATH, got none; run: scripts/setup.sh kafka"
    rm -rf "$LIBS" "$CHECKED"
    mkdir -p "$LIBS"
    say "fetching the broker's jars (44 MB) with Maven"
    mvn -q -B -f scripts/kafka/pom.xml dependency:copy-dependencies "-Dlibs=$LIBS" \
        || die "Maven could not fetch the jars; see its message above (it uses your own Maven settings)"
    (cd "$LIBS" && sha256sum --quiet --strict --check ../../../scripts/kafka/jars.sha256) \
        || die "the jars in $LIBS are not those of scripts/kafka/jars.sha256; they are not used"
    [[ $(find "$LIBS" -name '*.jar' | wc -l) == $(wc -l <scripts/kafka/jars.sha256) ]] || die "expected the jars of scripts/kafka/jars.sha256 only in $LIBS"
    cp scripts/kafka/jars.sha256 "$CHECKED"
}

run_java() {
    local java=java
    [[ -n ${JAVA_HOME:-} ]] && java=$JAVA_HOME/bin/java
    # shellcheck disable=SC2086  # heap options are several words
    exec "$java" $HEAP "-Dlog4j2.configurationFile=$PWD/scripts/kafka/log4j2.properties" -cp "$LIBS/*" "$@"
}

running() {
    local pid
    [[ -f $pid_file ]] || return 1
    pid=$(<"$pid_file")
    [[ -r /proc/$pid/cmdline ]] || return 1
    # A process id may have been given to another program since.
    [[ -n $pid && $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *"kafka.Kafka $config "* ]]
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

start() {
    fetch
    if running; then say "already running on 127.0.0.1:$(<"$data/port")"; return; fi
    if answers; then die "port $port: expected a free port, got one in use; give another with --port"; fi
    mkdir -p "$data"
    sed -e "s|@PORT@|$port|g" -e "s|@CONTROLLER_PORT@|$controller_port|g" -e "s|@DATA@|$data/log|g" scripts/kafka/server.properties >"$config"
    if [[ ! -f $data/log/meta.properties ]]; then
        (run_java kafka.tools.StorageTool format --standalone -t "$(new_id)" -c "$config") >"$data/format.log" 2>&1 \
            || die "the data folder was not formatted; see $data/format.log"
    fi
    (run_java kafka.Kafka "$config") </dev/null >>"$data/broker.log" 2>&1 &
    printf '%s\n' "$!" >"$pid_file"
    printf '%s\n' "$port" >"$data/port"
    for _ in $(seq 600); do
        answers && return
        running_or_starting || die "the broker ended; see $data/broker.log"
        sleep 0.1
    done
    stop
    die "no answer on port $port within 60 s; see $data/broker.log"
}

running_or_starting() { kill -0 "$(<"$pid_file")" 2>/dev/null; }

new_id() { head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '='; }

stop() {
    if ! running; then say "not running"; rm -f "$pid_file"; return; fi
    local pid
    pid=$(<"$pid_file")
    kill "$pid"
    for _ in $(seq 300); do
        if ! kill -0 "$pid" 2>/dev/null; then rm -f "$pid_file"; return; fi
        sleep 0.1
    done
    say "did not stop within 30 s; killing it"
    kill -9 "$pid"
    rm -f "$pid_file"
}

status() {
    if running; then printf '%s\n' "running on 127.0.0.1:$(<"$data/port"), process $(<"$pid_file")"; else printf 'stopped\n'; return 1; fi
}

case $action in
    fetch | start | stop | status) "$action" ;;
    *) die "expected one of: fetch, start, stop, status; got: ${action:-nothing}" ;;
esac
