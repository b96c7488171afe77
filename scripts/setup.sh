#!/usr/bin/env bash
# Sets up what make needs: scripts/setup.sh python runtime|dev, java, redis, chromium, kafka. Each is quick where nothing is to be done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly UV_VERSION=0.13.8
readonly VENV=.venv

say() { printf '%s\n' "moontide set-up: $*" >&2; }
die() { printf '%s\n' "moontide set-up: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null \
            && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    die "expected Python 3.11 to 3.13, got $(python3 --version 2>/dev/null || echo none); install python3.11 or set PYTHON=/path/to/python3.11"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# apt_install WHAT_FOR PACKAGE...: the first of the packages that apt knows.
apt_install() {
    local purpose=$1 package
    shift
    command -v apt-get >/dev/null || return 1
    as_root true || return 1
    say "installing $1 with apt-get ($purpose)"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || return 1
    for package in "$@"; do
        if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python
    [[ -x $VENV/bin/python ]] && return
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        local package
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        apt_install "virtual environments" "$package" python3-venv \
            || die "$python has no ensurepip; install it with: apt-get install $package"
    fi
    say "making $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
}

install_python() {
    local set=$1 uv=$VENV/bin/uv
    make_venv
    if [[ ! -x $uv || $("$uv" --version | cut -d' ' -f2) != "$UV_VERSION" ]]; then
        "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    say "installing lock/$set.txt"
    export VIRTUAL_ENV=$PWD/$VENV
    "$uv" pip install --quiet --require-hashes -r "lock/$set.txt"
    need_compiler
    "$uv" pip install --quiet --no-deps --no-build-isolation -e .
    say "tiers are counted by: $("$VENV/bin/python" -c 'from moontide.native import CHOSEN; print(CHOSEN.name, CHOSEN.why)')"
    touch "$VENV/.moontide-$set"
}

java_version() {
    local java=java
    [[ -n ${JAVA_HOME:-} ]] && java=$JAVA_HOME/bin/java
    "$java" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1
}

need_java() {
    local got
    got=$(java_version || true)
    if [[ -z $got || $got -lt 17 ]]; then
        apt_install "Spark needs Java 17 or later" openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless \
            || die "expected Java 17 or later, got ${got:-none}; install it with: apt-get install openjdk-17-jre-headless"
        got=$(java_version || true)
        [[ -n $got && $got -ge 17 ]] || die "expected Java 17 or later, got ${got:-none}; set JAVA_HOME to one"
    fi
}

need_redis() {
    command -v redis-server >/dev/null && return
    apt_install "the tests start a Redis of their own" redis-server \
        || die "expected redis-server on the PATH, got none; install it with: apt-get install redis-server"
}

# Only the test of the console needs it, and is skipped without.
need_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null && return
    apt_install "the console is tested in it" chromium \
        || say "no chromium: the test of the console will be skipped; install it with: apt-get install chromium"
}

# Without a compiler the install goes on, and numpy counts the tiers.
need_compiler() {
    command -v cc >/dev/null || command -v gcc >/dev/null && return
    apt_install "the tier kernel is compiled" gcc libc6-dev || say "no C compiler: numpy will count the tiers, more slowly"
}

need_kafka() {
    command -v mvn >/dev/null && return
    apt_install "Maven fetches the Kafka broker" maven \
        || die "expected mvn (Maven 3) on the PATH, got none; install it with: apt-get install maven"
}

case ${1:-} in
    python) install_python "${2:?expected runtime or dev}" ;;
    java) need_java ;;
    redis) need_redis ;;
    chromium) need_chromium ;;
    kafka) need_kafka ;;
    *) die "expected one of: python runtime, python dev, java, redis, chromium, kafka; got: ${1:-nothing}" ;;
esac
