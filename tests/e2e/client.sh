#!/usr/bin/env bash
# distillctl as scripts and people meet it: one JSON value, exit codes, a bar that fits its terminal, a
# watch that survives its daemon, readers that leave early.
. "$(dirname "$0")/support.sh"

text "$dir/text.txt" 60000
start_daemon
tiny_job "$dir/job.yaml"
tiny_job "$dir/long.yaml" "name: a-name-of-many-words-$(printf 'n%.0s' {1..170})"
one_value() { [ "$("$@" | jq -s length)" = 1 ] || fail "$*: expected one JSON value"; }

# --- a job that is over: its state, at once, and the code that says it
done_id=$(distillctl submit "$dir/job.yaml" --json | jq .id)
expect 0 'state: succeeded' distillctl watch "$done_id"
equal "second watch" "$(distillctl watch "$done_id")" "state: succeeded"
distillctl watch "$done_id" --json >"$dir/watch.json"
equal "last update" "$(tail -n 1 "$dir/watch.json" | jq -r .status.state)" succeeded
for command in list "show $done_id" "events $done_id" "metrics $done_id" "validate $dir/job.yaml"; do
    # shellcheck disable=SC2086 # a command and its argument
    one_value distillctl $command --json
done
equal "steps" "$(distillctl metrics "$done_id" --json | jq '.steps | length')" 20
equal "lines of CSV" "$(distillctl metrics "$done_id" --csv | wc -l)" 21
distillctl logs "$done_id" -f | grep -q 'step 20 of 20' || fail "logs -f of a job that is over"

# --- mistakes
expect 2 'did you mean "submit"' distillctl submot "$dir/job.yaml"
expect 2 'expected a job.s number' distillctl show one
expect 2 'not an option of this command' distillctl list --csv
expect 3 'control character' distillctl submit "$dir/job.yaml" --set 'name="a\e[31mb"'
expect 3 'control character' distillctl submit "$dir/job.yaml" --set 'name="a\u009b31mb"'
sed "s#$dir/##" "$dir/job.yaml" >"$dir/beside.yaml" # its text and its output are named without a folder
expect 0 'valid' env -C / distillctl validate "$dir/beside.yaml"
expect 3 ': /text.txt: No such file' env -C / distillctl validate "$dir/beside.yaml" --set 'data.files=[text.txt]'
mkdir "$dir/"$'\xff'
expect 3 'output: found 0xff at byte [0-9]+, expected UTF-8' \
    env -C "$dir/"$'\xff' distillctl validate "$dir/job.yaml" --set output=out
expect 4 'cannot connect' distillctl --server "unix:$dir/nobody" list
expect 5 'no job 99' distillctl watch 99
expect 6 'expected one that is not over' distillctl cancel "$done_id"
expect 7 'cannot be written' bash -c 'distillctl list >/dev/full'

# --- a bar is cut to its terminal; a daemon that is killed meanwhile and comes back is waited for
long=$(distillctl submit "$dir/long.yaml" --set output="$dir/long" --set training.steps=200000)
after=$(distillctl submit "$dir/job.yaml" --set output="$dir/after" --after "$long")
wait_for 20 in_state "$long" running
expect 0 'waits for jobs that it comes after' distillctl show "$after"
equal "metrics of a job without steps" "$(distillctl metrics "$after")" ""
equal "the same as JSON" "$(distillctl metrics "$after" --json)" '{"steps":[]}'
expect 124 '' timeout 2 script -qc "stty cols 40; distillctl watch $long" "$dir/screen"
grep -q 'step [0-9]' "$dir/screen" || fail "no bar on a terminal"
widest=$(sed 's/\x1b\[K//g' "$dir/screen" | tr '\r' '\n' | grep '^\[' | awk '{ if (length > n) n = length } END { print n + 0 }')
[ "$widest" -gt 20 ] && [ "$widest" -lt 40 ] || fail "the widest bar of 40 columns has $widest"
distillctl watch "$long" >"$dir/watch.txt" 2>&1 &
watcher=$!
wait_for 10 grep -q '^step' "$dir/watch.txt"
stop_daemon KILL
start_daemon
wait_for 10 at_step "$long" 1
expect 0 '' distillctl cancel "$long" # its ranks may not be back yet: they get the order when they are
wait_for 15 in_state "$long" cancelled
code=0
wait "$watcher" || code=$?
equal "code of a watch whose job was cancelled" "$code" 1
grep -q 'lost the daemon' "$dir/watch.txt" || fail "the watch did not tell that the daemon was away"
grep -q 'state: cancelled' "$dir/watch.txt" || fail "the watch did not tell the end"
expect 1 'which it comes after, was cancelled' distillctl watch "$after"

# --- more jobs than a page; a reader that leaves ends the writer quietly
stop_daemon TERM
echo 'hold_queue: true' >"$dir/hold.yaml"
start_daemon --config "$dir/hold.yaml"
for i in {1..260}; do
    distillctl submit "$dir/job.yaml" --set output="$dir/held-$i" >>"$dir/ids"
done
steering=$(distillctl submit "$dir/job.yaml" --set "output=\"$dir/a\\u009b31mb\"")
equal "a folder that would steer a terminal" "$(distillctl show "$steering" | grep -c '/a?31mb$')" 1
# What a job before will write is not looked for yet, however its folder is written.
before=$(distillctl submit "$dir/job.yaml" --set output="$dir/before/")
later() { distillctl submit "$dir/job.yaml" --set output="$dir/later" --after "$before" --set "teachers.0.checkpoint=$1"; }
expect 0 '' later "$dir/./before//final"
expect 3 'before-it/final: No such file' later "$dir/before-it/final"
one_value distillctl list --json
equal "jobs" "$(distillctl list --json | jq '.jobs | length')" 266
equal "header lines" "$(distillctl list | grep -c 'JOB')" 1
equal "a reader that leaves" "$(distillctl list 2>&1 | head -n 1 | cut -c 1-6)" "   JOB"
code=0
{ sleep 0.3 && timeout 5 distillctl watch 4; } | true || code=$?
equal "a watch without a reader" "$code" 141
finish
