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

if [ "${1:-}" = --long ]; then
    sh scripts/musl-python.sh
    sh scripts/each-python.sh
fi
# Two files at a time, each process with a lab of its own: most of a lab test is waiting. The long
# tests measure what the machine does, and run alone.
step "tests" $bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15 \
    -m "not long" tests </dev/null
if [ "${1:-}" = --long ]; then
    step "long tests" $bin/python -m pytest -q --durations=15 -m long tests </dev/null
fi
