#!/bin/sh
# The tests of what decides and of the journal, on every CPython at hand: `make test` itself runs on Debian's.
# Environments are kept in .cache/ while the lock stays the same.
set -eu
cd "$(dirname "$0")/.."
key=$(sha256sum <requirements/dev.txt)
for python in $(.venv/bin/python -m tests.boot.interpreters); do
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    venv=.cache/python-$version
    if [ "$(cat "$venv/lock-key" 2>/dev/null)" != "$key" ]; then
        rm -rf "$venv"
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
            --only-binary :all: --require-hashes -r requirements/dev.txt
        printf '%s\n' "$key" >"$venv/lock-key"
    fi
    echo "== Python $version"
    "$venv/bin/python" -m pytest -q -p no:cacheprovider -m "not long" \
        tests/compose tests/fields tests/plan tests/resources tests/journal \
        tests/test_errors.py tests/test_names.py tests/test_units.py </dev/null
done
