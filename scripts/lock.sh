#!/bin/sh
# Makes the locks of requirements/ anew from pyproject.toml: one file per purpose, valid for every
# Python from 3.10 to 3.14 (environment markers), each file with its hashes, no index in it.
set -eu
cd "$(dirname "$0")/.."
tool=.cache/lock-tool
if ! [ -x "$tool/bin/uv" ]; then
    "${PYTHON:-/usr/bin/python3}" -m venv "$tool"
    "$tool/bin/pip" install --quiet --disable-pip-version-check 'uv==0.13.9'
fi

lock() {
    out=$1
    shift
    "$tool/bin/uv" pip compile --quiet --universal --generate-hashes --python-version 3.10 \
        --no-header --no-emit-index-url --no-emit-find-links --no-annotate \
        --output-file "$out.new" "$@"
    { echo "# Made by 'make lock' from pyproject.toml; do not edit."; grep -v -- '^--' "$out.new"; } >"$out"
    rm -f "$out.new"
}

lock requirements/runtime.txt pyproject.toml
lock requirements/build.txt --group pyproject.toml:build
lock requirements/dev.txt pyproject.toml --group pyproject.toml:test --group pyproject.toml:lint
sh scripts/setup.sh
.venv/bin/python build_zipapp.py --lock
