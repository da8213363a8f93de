#!/bin/sh
# Makes .venv from requirements/dev.txt, every file checked by hash. Reused while the lock, the
# interpreter and this script stay the same. Needs root only when Debian's packages are missing.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-/usr/bin/python3}

# Installs Debian packages that are missing; the package lists are fetched only when needed.
need_packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of package names
    apt-get install -y -q --no-install-recommends $missing </dev/null >/dev/null 2>&1 || {
        apt-get update -q </dev/null >/dev/null
        apt-get install -y -q --no-install-recommends $missing </dev/null >/dev/null
    }
}

if [ -f /etc/debian_version ]; then
    need_packages ca-certificates python3 python3-venv
fi

key=$({
    "$python" -VV
    pwd
    cat requirements/dev.txt scripts/setup.sh
} | sha256sum)
if [ "$(cat .venv/lock-key 2>/dev/null)" = "$key" ]; then
    exit 0
fi
echo "setup: making .venv"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
    --only-binary :all: --require-hashes -r requirements/dev.txt
printf '%s\n' "$key" >.venv/lock-key
