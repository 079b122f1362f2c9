#!/usr/bin/env bash
# From a Dockerfile to a served request: what `make demo` shows once everything is built.
set -euo pipefail
cd "$(dirname "$0")/.."

sampan=${SAMPAN_BIN:?run this through make demo}
port=${DEMO_PORT:-8080}
export SAMPAN_ROOT=${SAMPAN_ROOT:-$PWD/.sampan}

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
show() { say "sampan $*"; "$sampan" "$@"; }
cleanup() { "$sampan" rm -f demo >/dev/null 2>&1 || true; }
trap cleanup EXIT
cleanup

show build -t hello samples/hello
show build -t web samples/web
show run --rm hello
show run -d --name demo -p "$port:8000" web
say "curl http://localhost:$port/"
curl -sS "http://localhost:$port/"
echo
show ps
show logs demo

say "how long does it take to run a hello, whole command?"
begin=$(date +%s%N)
for _ in $(seq 20); do "$sampan" run --rm hello >/dev/null; done
echo "$(( ($(date +%s%N) - begin) / 20000 )) microseconds, the mean of 20"

say "what memory does the idle service take, both its processes?"
pids=$("$sampan" inspect -f '{{.State.Pid}} {{.Sampan.Keeper}}' demo)
total=0
for pid in $pids; do
  total=$((total + $(awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup")))
done
echo "$total KiB (proportional set size)"

show stop demo
show rm demo
trap - EXIT

cat <<END

Now it is yours. The store of this demo is $SAMPAN_ROOT; with these two lines every command is at hand:

    export SAMPAN_ROOT=$SAMPAN_ROOT PATH=$(dirname "$sampan"):\$PATH
    sampan run -d --name web -p $port:8000 web
    curl localhost:$port/headers
    sampan ps
    sampan logs -f web
    sampan inspect web
    sampan stop web
    sampan run --rm hello
    sampan --help
END
