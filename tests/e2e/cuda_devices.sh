#!/usr/bin/env bash
# A CUDA device that fails, of emulated ones: the next attempt takes another at no cost to the job; without another
# a job that insists waits, one that does not goes on the CPU, and a new daemon takes all devices up again.
source "$(dirname "$0")/support.sh"

worker=$KD_BIN/distill-worker-emulated
export KD_CUDA_HOST_FAULT_AT=400 KD_CUDA_HOST_FAULT_DEVICE=0 # of the ranks, which have it of the daemon
text "$dir/text.txt" 30000
for name in moved:cuda waits:cuda falls:auto; do
    tiny_job "$dir/${name%:*}.yaml" "  resources: {device: ${name#*:}}" 'evaluation: {max_sequences: 2}' \
        'limits: {max_restarts: 0}'
    sed -i 's/steps: 20/steps: 4/; s/every_steps: 5/every_steps: 1/' "$dir/${name%:*}.yaml"
done

# Two devices, of which number 0 fails in the middle.
export KD_CUDA_HOST_DEVICES=2
start_daemon --worker "$worker"
expect 0 '' distillctl submit "$dir/moved.yaml" --watch
equal "attempts" "$(status 1 attempts)" 2
expect 0 'device +rank 0: emulated device 0, number 0 on [^ ]+ failed, and is avoided until distilld starts again: ' \
    distillctl events 1
expect 0 'CUDA device 0 of 2 is avoided: emulated device 0, number 0 on [^ ]+ failed before' distillctl logs 1
expect 0 'student on emulated device 1, number 1' distillctl logs 1
expect 0 'resumes at step' distillctl logs 1
stop_daemon TERM

# One device alone.
export KD_CUDA_HOST_DEVICES=1
start_daemon --worker "$worker"
expect 0 '' distillctl submit "$dir/waits.yaml"
wait_for 60 eval '[[ $(status 2 reason) =~ no\ CUDA\ device\ of\ this\ host\ is\ left ]]'
equal "state of a job that waits for a device" "$(status 2 state)" queued
expect 0 '' distillctl submit "$dir/falls.yaml" --watch # and nobody waits behind it
expect 0 'student on cpu ' distillctl logs 3
equal "state of a job that waits for a device, later" "$(status 2 state)" queued
stop_daemon TERM
unset KD_CUDA_HOST_FAULT_AT
start_daemon --worker "$worker"
expect 0 '' distillctl watch 2
expect 0 'student on emulated device 0, number 0' distillctl logs 2
equal "state under the next daemon" "$(status 2 state)" succeeded
finish
