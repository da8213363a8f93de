#!/bin/sh
# The main job, shown step by step: plan, apply, a page fetched, one value changed, plan with the reason,
# apply, history. On this machine's Incus where one answers that can do what ic needs, else in the lab.
# Leaves the stack running and says how to look at it and how to remove it.
set -eu
cd "$(dirname "$0")/.."
stack=ic-demo

say() { printf '\n== %s\n' "$*"; }

say "Building dist/ic.pyz"
sh scripts/setup.sh
.venv/bin/python build_zipapp.py
python=/usr/bin/python3
[ -x "$python" ] || python=.venv/bin/python
ic_pyz=$PWD/dist/ic.pyz

# Which server? Prints why this machine's own cannot be used; nothing when it can.
INCUS_SOCKET=${INCUS_SOCKET:-${INCUS_DIR:-/var/lib/incus}/unix.socket}
why_not_here() {
    if ! [ -S "$INCUS_SOCKET" ]; then
        echo "there is no Incus at $INCUS_SOCKET"
        return
    fi
    INCUS_SOCKET=$INCUS_SOCKET "$python" "$ic_pyz" version --json 2>/dev/null </dev/null |
        INCUS_SOCKET=$INCUS_SOCKET "$python" -c '
import http.client, json, os, socket, sys

try:
    server = json.load(sys.stdin)["server"]
except ValueError:
    server = None
if server is None:
    sys.exit("the Incus at %s does not answer" % os.environ["INCUS_SOCKET"])
if server["api_extensions_missing"]:
    sys.exit("Incus %s lacks %s" % (server["version"], ", ".join(server["api_extensions_missing"])))
connection = http.client.HTTPConnection("incus")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ["INCUS_SOCKET"])
connection.request("GET", "/1.0/storage-pools")
if not json.load(connection.getresponse())["metadata"]:
    sys.exit("its Incus %s has no storage pool yet (incus admin init)" % server["version"])
' 2>&1 || true
}
reason=$(why_not_here)

if [ -z "$reason" ]; then
    say "Using this machine's Incus: it answers at $INCUS_SOCKET and has every API extension that ic needs"
    export INCUS_SOCKET
    folder=$PWD/build/demo/web
    ic_command="python3 $ic_pyz"
    mkdir -p "$folder"
    cp examples/web/compose.yaml "$folder/"
    inside() { (cd "$folder" && "$@"); }
    in_folder="cd $folder"
    shown_command="INCUS_SOCKET=$INCUS_SOCKET $ic_command -p $stack"
    remove="$shown_command destroy -v"
else
    say "Using the lab: $reason"
    if [ "$(id -u)" != 0 ]; then
        echo "demo: cannot bring up the lab: that needs root" >&2
        exit 1
    fi
    "$python" tests/lab/lab.py up --name demo
    folder=/stacks/web
    ic_command="python3 /opt/ic/ic.pyz"
    "$python" tests/lab/lab.py exec --name demo -- mkdir -p $folder
    "$python" tests/lab/lab.py exec --name demo -- cp /opt/repo/examples/web/compose.yaml $folder/
    inside() { "$python" tests/lab/lab.py exec --name demo --cwd $folder -- "$@"; }
    in_folder="python3 tests/lab/lab.py shell --name demo   # then: cd $folder"
    shown_command="$ic_command -p $stack"
    remove="python3 tests/lab/lab.py down --name demo"
fi

# A port that nobody else has, unless the stack of an earlier demo has it already.
port=$(inside python3 -c '
import socket

for port in range(8080, 8180):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            continue
    print(port)
    break
')
if inside test -f .env; then
    port=$(inside cat .env | sed -n 's/^PORT=//p')
fi
inside sh -c "echo PORT=$port >.env"

ic() {
    printf '\n$ ic -p %s %s\n' "$stack" "$*"
    # shellcheck disable=SC2086 # a command and its argument
    inside $ic_command -p "$stack" "$@"
}

# The page, once it has what is waited for.
fetch() {
    printf '\n$ curl http://127.0.0.1:%s/\n' "$port"
    inside python3 -c '
import sys, time, urllib.request

url, wanted, until = sys.argv[1], sys.argv[2], time.monotonic() + 30
while True:
    try:
        page = urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError as problem:
        page = str(problem)
    if wanted in page:
        break
    if time.monotonic() > until:
        sys.exit("demo: cannot fetch the page: %s" % page)
    time.sleep(0.2)
print(page, end="")
' "http://127.0.0.1:$port/" "$1"
}

say "What would be done? (nothing is written)"
ic plan
say "Do it"
ic apply -y
say "The page, through the published port"
fetch "Hello from Incus"
say "One value is changed in the compose file"
inside sed -i 's/GREETING: .*/GREETING: Hello again/' compose.yaml
inside grep -n GREETING: compose.yaml
say "What does that change, and why?"
ic plan
say "Do it"
ic apply -y
fetch "Hello again"
say "What was done, by whom, when"
ic history

cat <<END

The stack is running. To look at it:
  $in_folder
  $shown_command ps
  $shown_command history
To remove it:
  $remove
END
