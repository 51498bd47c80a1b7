#!/usr/bin/env bash
# Bad input is answered with what, where, found and expected, and a documented exit code; nothing is left behind.
source "$(dirname "$0")/support.sh"

text "$dir/text.txt" 100000
tiny_job "$dir/good.yaml"
start_daemon --slots 2
good() { distillctl submit "$dir/good.yaml" --set output="$dir/out" "$@"; }
grep -v 'model:' "$dir/good.yaml" | sed 's/^student:/student: {init: checkpoint}/' >"$dir/from.yaml"
from() { distillctl submit "$dir/from.yaml" --set output="$dir/out" --set student.checkpoint="$@"; }

# --- refused before a job exists: exit code 3
printf 'training: {stpes: 5}\n' >"$dir/misspelt.yaml"
expect 3 'misspelt.yaml:1:12: training.stpes: no such field; did you mean "steps"' \
    distillctl submit "$dir/misspelt.yaml"
printf 'training:\n  steps: many\n' >"$dir/type.yaml"
expect 3 'type.yaml:2:10: training.steps: expected a whole number, found "many"' distillctl submit "$dir/type.yaml"
printf 'training: {steps: 5\n' >"$dir/syntax.yaml"
expect 3 'syntax.yaml:[0-9]+:[0-9]+' distillctl submit "$dir/syntax.yaml"
expect 3 'held_out: found 0.9, expected' good --set data.held_out=0.9
expect 3 'learning_rate: found -1, expected' good --set training.learning_rate=-1
expect 3 'absent.yaml' distillctl submit "$dir/absent.yaml"
expect 3 'absent.txt' good --set "data.files=[$dir/absent.txt]"
expect 3 'absent-model' from "$dir/absent-model"
expect 3 'found 3 ranks.*expected at most 2' good --set student.resources.ranks=3 --set training.batch_size=6
expect 3 'good.yaml/out: Not a directory' good --set output="$dir/good.yaml/out"
: >"$dir/empty.txt"
expect 3 'empty.txt' good --set "data.files=[$dir/empty.txt]"
expect 3 'no such field' distillctl validate "$dir/misspelt.yaml"
equal "jobs after refusals" "$(distillctl list --json | jq '.jobs | length')" 0

# --- the command line: exit code 2; no daemon: 4
expect 2 'did you mean "submit"' distillctl sumbit "$dir/good.yaml"
expect 2 'FILE' distillctl submit
expect 2 'expected a job' distillctl show abc
expect 4 '' distillctl --server "unix:$dir/nobody.sock" list

# --- seen by the ranks: the job fails at once, with the reason, without a second attempt
fails() { # REGEX COMMAND...
    local regex=$1 id
    shift
    id=$("$@")
    expect 1 '' distillctl watch "$id"
    equal "state of job $id" "$(status "$id" state)" failed
    equal "attempts of job $id" "$(status "$id" attempts)" 1
    [[ $(status "$id" reason) =~ $regex ]] ||
        fail "reason \"$(status "$id" reason)\", expected a match of \"$regex\""
    wait_for 5 no_ranks
}

expect 0 '' distillctl submit "$dir/good.yaml" --watch # its final/ is the checkpoint to spoil
model=$dir/good/final
spoil() { # NAME: a copy of the checkpoint
    rm -rf "${dir:?}/$1"
    cp -r "$model" "$dir/$1"
}

fails '/proc/nowhere' good --set output=/proc/nowhere --set limits.max_restarts=0
printf 'too short' >"$dir/short.txt"
fails 'short.txt|tokens' good --set "data.files=[$dir/short.txt]"
spoil header
printf '\377\377\377\377\377\377\377\177' | dd of="$dir/header/model.safetensors" conv=notrunc status=none
fails 'header.*model.safetensors' from "$dir/header"
spoil truncated
truncate -s -100 "$dir/truncated/model.safetensors"
fails 'truncated.*model.safetensors' from "$dir/truncated"
spoil dtype
sed -i 's/"BF16"/"BF61"/; s/"F32"/"F23"/' "$dir/dtype/model.safetensors"
fails 'dtype' from "$dir/dtype"
spoil other
rm "$dir/other/manifest.json" # it would tell first that something changed
sed -i 's/"hidden_size": *32/"hidden_size": 64/' "$dir/other/config.json"
fails 'has shape .*, expected .*another architecture' from "$dir/other"
expect 0 '' good --set output="$dir/wide" --set student.model.vocab_size=1024 --set training.steps=2 --watch

# --- told by config.json alone: refused at submit, and by validate without a daemon
answers() { # CODE REGEX ARGUMENT...: of good.yaml
    local code=$1 regex=$2
    shift 2
    expect "$code" "$regex" good "$@"
    expect "$code" "$regex" distillctl validate "$dir/good.yaml" --set output="$dir/out" "$@"
}
refuses() { answers 3 "$@"; }
config() { # FIELD VALUE: the checkpoint to spoil, with this in its config.json
    spoil config
    jq --argjson value "$2" ".$1 = \$value" "$model/config.json" >"$dir/config/config.json"
}
refuses 'teachers.0.checkpoint: .*256.*1024' --set "teachers.0.checkpoint=$dir/wide/final"
refuses 'data.sequence_length: found 64, expected at most 32' --set "teachers.0.checkpoint=$model" --set data.sequence_length=64
refuses 'student.model.shared_expert_size: found 0, expected at least 1 in type qwen2_moe' --set student.model.type=qwen2_moe
refuses 'student.model.type: found "mixtrel".*did you mean "mixtral"' --set student.model.type=mixtrel
config rope_scaling '{"rope_type": "yarn", "factor": 4}'
refuses 'teachers.0.checkpoint: .*config.json: "rope_type" is "yarn"' --set "teachers.0.checkpoint=$dir/config"
config layer_types '["full_attention", "sliding_attention"]'
refuses '"layer_types" is "sliding_attention"' --set "teachers.0.checkpoint=$dir/config"
config model_type '"gpt2"'
refuses '"model_type": found "gpt2", expected one of llama' --set "teachers.0.checkpoint=$dir/config"
printf '{"model_type": ' >"$dir/config/config.json"
refuses 'teachers.0.checkpoint: .*config.json:1:' --set "teachers.0.checkpoint=$dir/config"
rm "$dir/config/config.json"
refuses 'teachers.0.checkpoint: .*config.json: No such file' --set "teachers.0.checkpoint=$dir/config"
ln -s /proc/self/mem "$dir/config/config.json" # a disk that fails is no fault of the job
answers 7 'teachers.0.checkpoint: .*config.json: Input/output error' --set "teachers.0.checkpoint=$dir/config"
fails 'step [0-9]+: .* is (not a number|infinite).*, expected a number' \
    good --set output="$dir/diverged" --set training.learning_rate=1e30
mkdir -p "$dir/jammed/metrics.csv"
fails 'jammed/metrics.csv' good --set output="$dir/jammed"

# --- an output folder that fills up
if mkdir "$dir/small" && mount -t tmpfs -o size=300k tmpfs "$dir/small" 2>/dev/null; then
    id=$(good --set output="$dir/small/out" --set limits.max_restarts=0)
    expect 1 '' distillctl watch "$id"
    [[ $(status "$id" reason) =~ [Nn]o\ space ]] || fail "full disk: reason \"$(status "$id" reason)\""
    umount "$dir/small"
fi

# --- a second daemon on the same state folder
expect 5 "$daemon" distilld --state "$dir/state" --listen "unix:$dir/second.sock"

# --- after all that, a good job still runs
expect 0 '' good --set output="$dir/last" --watch
finish
