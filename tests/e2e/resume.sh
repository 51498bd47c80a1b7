#!/usr/bin/env bash
# A job whose rank is killed, and one whose daemon is killed meanwhile, end in the same bytes as one left alone.
source "$(dirname "$0")/support.sh"

text "$dir/text.txt" 200000
tiny_job "$dir/teacher.yaml"
start_daemon
expect 0 '' distillctl submit "$dir/teacher.yaml" --watch

tiny_job "$dir/job.yaml" "teachers: [{checkpoint: $dir/teacher/final, resources: {ranks: 1}}]"
# Long enough that a kill hits the middle; sanitizers make every step some ten times longer.
steps=${KD_RESUME_STEPS:-3000}
random_step() { echo $((steps / 10 + RANDOM % (steps / 2))); }
submit() { # NAME
    distillctl submit "$dir/job.yaml" --set output="$dir/$1" --set name="$1" --set training.steps=$steps \
        --set training.dtype=bf16 --set checkpoint.every_steps=$((steps / 12))
}
same() { # NAME
    cmp "$dir/alone/final/model.safetensors" "$dir/$1/final/model.safetensors" || fail "$1 differs from alone"
}
kill_a_rank() { # a random one of the two
    local ranks
    mapfile -t ranks < <(pgrep -f "distill-worker .*$dir/state")
    [ ${#ranks[@]} -gt 0 ] || { fail "no rank to kill"; return 0; }
    kill -KILL "${ranks[RANDOM % ${#ranks[@]}]}"
}

alone=$(submit alone)
expect 0 '' distillctl watch "$alone"

killed=$(submit killed)
wait_for 30 at_step "$killed" "$(random_step)"
kill_a_rank
expect 0 '' distillctl watch "$killed"
equal "attempts after the kill" "$(status "$killed" attempts)" 2
same killed

# the daemon dies; its ranks go on, and a new daemon takes them up
orphan=$(submit orphan)
wait_for 30 at_step "$orphan" "$(random_step)"
stop_daemon KILL
[ -n "$(job_ranks)" ] || fail "the ranks died with the daemon"
start_daemon
expect 0 '' distillctl watch "$orphan"
equal "attempts of the job taken up" "$(status "$orphan" attempts)" 1
same orphan

# the daemon dies, and a rank while it is gone
both=$(submit both)
wait_for 30 at_step "$both" "$(random_step)"
stop_daemon KILL
kill_a_rank
start_daemon
expect 0 '' distillctl watch "$both"
same both

# SIGTERM leaves the job resumable
stopped=$(submit stopped)
wait_for 30 at_step "$stopped" "$(random_step)"
stop_daemon TERM
wait_for 5 no_ranks
start_daemon
expect 0 '' distillctl watch "$stopped"
same stopped
finish
