#!/usr/bin/env bash
# Shows an outage in two minutes: a job is reported on and watched while its Redis is killed and started again, empty.
# Needs redis-server, and target/venv as tests/run.sh makes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
export JOBTRACK_HTTP_LISTEN=off
buf=$target/venv/bin/buf
if ! [ -x "$buf" ]; then
    tests/venv.sh "$target/venv" tests/acceptance/requirements.txt
fi
cargo build --locked --quiet

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
redis() { redis-server --port 16379 --save "" --dir "$work" --daemonize no >/dev/null & redis=$!; }
say() { printf '\n== %s\n' "$*"; }
call() {
    "$buf" curl --protocol grpc --http2-prior-knowledge --emit-defaults -d "$2" "http://127.0.0.1:16051/jobtrack.v1.$1"
}
# Revision, progress and durability of the answer on standard input.
brief() { "$target/venv/bin/python" -c '
import json, sys
text, decoder = sys.stdin.read(), json.JSONDecoder()
while text.strip():
    answer, end = decoder.raw_decode(text.lstrip())
    text = text.lstrip()[end:]
    job = answer.get("job") or {}
    print("  ", answer.get("event", ""), "revision", job.get("revision"), job.get("state"),
          (job.get("progress") or {}).get("completed", ""), job.get("durability"))'; }
report() { call JobService/UpdateProgress "{\"job_id\":\"demo\",\"progress\":{\"completed\":$1,\"total\":9}}" | brief; }

redis
"$target/debug/jobtrack" --listen 127.0.0.1:16051 --redis-url redis://127.0.0.1:16379 --log warn &
sleep 1

say "a job, watched to its end (the watch is printed last)"
call JobService/CreateJob '{"job_id":"demo","kind":"demo"}' | brief
call JobService/WatchJob '{"job_id":"demo"}' >"$work/watch" &
watch=$!
sleep 0.5
report 1

say "kill -9 redis-server: reports are accepted, and marked VOLATILE"
{ kill -9 "$redis" && wait "$redis"; } 2>/dev/null || true
for n in 2 3 4; do report $n; done

say "a job that this replica does not hold is UNAVAILABLE, never NOT_FOUND"
call JobService/GetJob '{"job_id":"another"}' 2>&1 | grep '"code"' || true

say "redis-server again, empty: all that is held goes there"
redis
sleep 3
report 5
call AdminService/GetStats '{}' | grep -E 'storageMode|Count'

say "the end, and what the watch saw"
call JobService/CompleteJob '{"job_id":"demo"}' | brief
wait "$watch"
brief <"$work/watch"
