#!/usr/bin/env bash
# Feast's own universal online-store tests on moontide's plug-ins; docs/feast-conformance.md says what they show.
# usage: tests/feast_suite/run.sh FEAST_CHECKOUT [lmdb] [redis]
#   FEAST_CHECKOUT      a checkout of Feast's repository (its tests are not in its wheel)
#   FEAST_SUITE_PYTHON  a Python with requirements.txt of this folder and moontide's `serve` extra (default: python)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "${1:?usage: $0 FEAST_CHECKOUT [lmdb] [redis]}" && pwd)
python=${FEAST_SUITE_PYTHON:-python}
stores=("${@:2}")
[ ${#stores[@]} -gt 0 ] || stores=(lmdb redis)

scratch=$(mktemp -d)
redis_pid=
trap '[ -z "$redis_pid" ] || kill "$redis_pid"; rm -rf "$scratch"' EXIT
if [[ " ${stores[*]} " == *" redis "* ]]; then
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    redis-server --port "$port" --bind 127.0.0.1 --save "" --dir "$scratch" >/dev/null &
    redis_pid=$!
    export MOONTIDE_REDIS_URL=redis://127.0.0.1:$port/0
fi

export PYTHONPATH=$checkout/sdk/python:$here:$here/../.. FULL_REPO_CONFIGS_MODULE=repo_configs FEAST_IS_LOCAL_TEST=True
export FEAST_USAGE=False MOONTIDE_HOME=$scratch/home
cd "$checkout/sdk/python"
failed=0
for store in "${stores[@]}"; do
    echo "== $store"
    # Deselected: two tests that start a DynamoDB container of their own, one that reads a value two years past its TTL.
    MOONTIDE_FEAST_SUITE=$store "$python" -m pytest -p no:cacheprovider -p no:logging --integration -rsf \
        tests/integration/online_store/test_universal_online.py \
        tests/integration/online_store/test_universal_online_types.py \
        tests/integration/online_store/test_universal_e2e.py \
        tests/integration/online_store/test_push_features_to_online_store.py \
        tests/integration/materialization/test_universal_materialization.py \
        -k "not dynamo and not test_odfv_write_methods" || failed=1
done
exit $failed
