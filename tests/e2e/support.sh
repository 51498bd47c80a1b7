# support.sh - what the end-to-end tests share: a daemon of their own, small jobs, checks that tell.
# Sourced; needs KD_BIN, the folder of the programs.
set -euo pipefail

: "${KD_BIN:?the folder of the programs}"
export PATH=$KD_BIN:$PATH
dir=$(mktemp -d "${TMPDIR:-/tmp}/distilld-e2e.XXXXXX")
export DISTILLD_SERVER=unix:$dir/d.sock
daemon=0
failures=0

# Nothing of a test outlives it: its daemon, and every process that names its folder. A test that
# failed shows what the daemon said, a sanitizer's report included.
cleanup() {
    local code=$?
    [ "$daemon" = 0 ] || stop_daemon KILL
    [ "$code" = 0 ] || tail -n 60 "$dir/daemon.log" || true
    pkill -KILL -f "$dir" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# finish: the last line of every test.
finish() {
    stop_daemon TERM
    [ "$failures" = 0 ] || exit 1
    echo "all checks passed"
}

# expect CODE REGEX COMMAND...: the command exits with CODE and what it prints matches REGEX.
expect() {
    local code=$1 regex=$2 output found=0
    shift 2
    output=$("$@" 2>&1 </dev/null) || found=$?
    [ "$found" = "$code" ] || fail "$*: exit code $found, expected $code: $output"
    [[ $output =~ $regex ]] || fail "$*: printed \"$output\", expected a match of \"$regex\""
}

equal() { # WHAT FOUND EXPECTED
    [ "$2" = "$3" ] || fail "$1: found \"$2\", expected \"$3\""
}

# start_daemon [OPTIONS]: returns when it has printed its ready line.
start_daemon() {
    local ready=$dir/ready
    rm -f "$ready"
    mkfifo "$ready"
    distilld --state "$dir/state" --listen "$DISTILLD_SERVER" "$@" >"$ready" 2>>"$dir/daemon.log" &
    daemon=$!
    read -r line <"$ready" || {
        echo "the daemon did not start"
        exit 1
    }
}

# stop_daemon TERM | KILL: a daemon that had ended before, by itself, is a failure.
stop_daemon() {
    local found=0 expected=0
    [ "$1" = TERM ] || expected=137
    kill "-$1" "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || found=$?
    daemon=0
    equal "exit code of the daemon at SIG$1" "$found" "$expected"
}

# text FILE BYTES: English-like text that a tiny model can learn.
text() {
    head -c "$2" >"$1" < <(yes 'the quick brown fox jumps over the lazy dog and then sleeps in the warm sun all day long.')
}

# tiny_job FILE [LINE...]: a job of seconds; the lines are added at the end, which is the student's.
tiny_job() {
    local file=$1
    shift
    cat >"$file" <<EOF
output: $dir/$(basename "$file" .yaml)
data:
  files: [$dir/text.txt]
  sequence_length: 32
training: {steps: 20, batch_size: 4, micro_batch_size: 2, learning_rate: 3e-3, dtype: f32}
checkpoint: {every_steps: 5}
student:
  model: {hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48, num_experts: 4}
EOF
    printf '%s\n' "$@" >>"$file"
}

status() { # JOB FIELD
    distillctl show "$1" --json | jq -r ".$2"
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || {
            fail "waited in vain for: $*"
            return 0
        }
        sleep 0.1
    done
}

in_state() { [ "$(status "$1" state)" = "$2" ]; }
at_step() { [ "$(status "$1" step)" -ge "$2" ]; }
job_ranks() { pgrep -f "distill-worker .*$dir" || true; }
no_ranks() { [ -z "$(job_ranks)" ]; }
