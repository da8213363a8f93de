#!/bin/sh
# Every check, in the order in which a person wants to hear of a mistake. The last output is
# pytest's own summary. `--long` adds the tests marked long.
set -eu
cd "$(dirname "$0")/.."

sh scripts/setup.sh
bin=.venv/bin
step() {
    echo "== $1"
    shift
    "$@"
}
step "build" $bin/python build_zipapp.py
step "lint" $bin/ruff check .
step "format" $bin/ruff format --check .
step "types" $bin/basedpyright
step "imports" $bin/lint-imports --no-logo

echo "== tests"
if [ "${1:-}" = --long ]; then
    sh scripts/musl-python.sh
    sh scripts/each-python.sh
    exec $bin/python -m pytest -q --durations=15 tests </dev/null
fi
exec $bin/python -m pytest -q --durations=15 -m "not long" tests </dev/null
