#!/usr/bin/env bash
# The whole worker under mpirun, without a daemon: worker.sh DISTILL_WORKER CASE, with CASE one of the
# functions named case_* below. Ends with 0, or prints what was expected.
set -euo pipefail

worker=$1
mpirun=$(realpath "$(dirname "$0")/../support/mpirun")
folder=$(mktemp -d)
setter_pid=
trap '[ -z "$setter_pid" ] || kill "$setter_pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"

fail() {
    echo "worker.sh: $*" >&2
    exit 1
}

# make_teacher [PATH=VALUE]...: the text, and a teacher made from it by a job without teachers.
make_teacher() {
    awk 'BEGIN { srand(7); for (i = 0; i < 6000; i++) printf "%s ", substr("the quick brown fox jumps over a lazy dog", 1 + int(rand() * 30), 2 + int(rand() * 7)) }' >text.txt
    cat >teacher.yaml <<'EOF'
output: teacher
seed: 3
data: {files: [text.txt], sequence_length: 32}
student:
  model: {hidden_size: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, intermediate_size: 48, num_experts: 4}
training: {steps: 10, batch_size: 16, micro_batch_size: 4, learning_rate: 3e-3, dtype: f32}
evaluation: {max_sequences: 16}
EOF
    cat >student.yaml <<'EOF'
output: student
seed: 5
data: {files: [text.txt], sequence_length: 32}
student:
  model: {hidden_size: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1, intermediate_size: 24, num_experts: 2}
teachers: [{checkpoint: teacher/final, resources: {ranks: 1}}]
objective: {kd: {temperature: 2}}
training: {steps: 12, batch_size: 16, micro_batch_size: 4, learning_rate: 3e-3, dtype: f32}
evaluation: {max_sequences: 16}
EOF
    run 1 teacher.yaml "$@"
}

# run RANKS JOB [PATH=VALUE]...
run() {
    local ranks=$1 job=$2
    shift 2
    "$mpirun" -n "$ranks" "$worker" --job "$job" "${@/#/--set=}" >>log 2>&1 || {
        local code=$?
        [ -n "${may_fail:-}" ] || cat log >&2
        return "$code"
    }
}

# expect_exit CODE TEXT RANKS JOB [PATH=VALUE]...: ends with that code, and the log has that text.
expect_exit() {
    local expected=$1 text=$2 code=0
    shift 2
    : >log
    may_fail=1 run "$@" || code=$?
    [ "$code" = "$expected" ] || { cat log >&2 && fail "exit code $code, expected $expected: $*"; }
    grep -qF -- "$text" log || { cat log >&2 && fail "the log has no \"$text\""; }
}

# expect_code CODE COMMAND...: ends with that code.
expect_code() {
    local expected=$1 code=0
    shift
    "$@" 2>>log || code=$?
    [ "$code" = "$expected" ] || fail "exit code $code, expected $expected: $*"
}

# expect_same_losses FILE FILE [ROWS]: steps and losses of two runs differ by rounding only.
expect_same_losses() {
    paste -d, "$1" "$2" | awk -F, -v names="$1 $2" -v rows="${3:-12}" '
        NR == 1 {
            n = NF / 2
            for (i = 1; i <= n; i++) timed[i] = $i ~ /^time$|^tokens_per_second$|^stall_share$|_ms$/
            next
        }
        {
            for (i = 1; i <= n; i++) {
                if (timed[i]) continue
                difference = $i - $(i + n); size = $i < 0 ? -$i : $i
                if (difference < 0) difference = -difference
                if (difference > 1e-5 * size) { print names ": row " NR - 1 ": " $i " and " $(i + n); exit 1 }
            }
        }
        END { if (NR != rows + 1) { print names ": " NR - 1 " rows, expected " rows; exit 1 } }' >&2 ||
        fail "losses differ"
}

# expect_parts FILE PART...: in each row these parts of the step have a time, none below 0, and no others.
expect_parts() {
    local file=$1
    shift
    awk -F, -v expected="$*" '
        NR == 1 { for (i = 1; i <= NF; i++) if (sub(/_ms$/, "", $i)) name[i] = $i; next }
        {
            found = ""
            for (i = 1; i <= NF; i++) if ((i in name) && $i != "") { found = found (found == "" ? "" : " ") name[i]; if ($i < 0) bad = 1 }
            if (bad || found != expected) { print FILENAME ": row " NR - 1 ": found " found ", expected " expected; exit 1 }
        }
        END { if (NR < 2) exit 1 }' "$file" >&2 || fail "parts of a step"
}

case_roles() {
    make_teacher
    expect_parts teacher/metrics.csv count forward loss backward update
    run 1 student.yaml output=both teachers.0.resources.ranks=0
    expect_parts both/metrics.csv count forward teacher loss backward update
    local roles students teachers transport
    for roles in 1:1 1:2 2:1 2:2; do
        teachers=${roles%:*} students=${roles#*:}
        for transport in logits hidden; do
            run $((students + teachers)) student.yaml output=run "teachers.0.transport=$transport" \
                "student.resources.ranks=$students" "teachers.0.resources.ranks=$teachers"
            expect_same_losses both/metrics.csv run/metrics.csv
            expect_parts run/metrics.csv count forward signals loss backward $([ $students = 1 ] || echo reduce) update
            # 12 steps of 4 micro-batches, of which the leader takes its share.
            grep -q "rank 0: signals: $((48 / students)) messages" log || fail "signals are not counted: $roles"
            rm -r run && : >log
        done
    done
    run 2 student.yaml output=run student.resources.ranks=2 teachers.0.resources.ranks=0
    expect_same_losses both/metrics.csv run/metrics.csv
}

# A loss that a schedule turns off and on again: nothing is sent meanwhile, and nothing is amiss later.
case_groups() {
    local roles
    make_teacher
    local weight='objective.kd.weight={kind: step, points: [{step: 0, value: 0}, {step: 3, value: 0.7}, {step: 5, value: 0}, {step: 9, value: 0.5}]}'
    run 1 student.yaml output=both teachers.0.resources.ranks=0 "$weight"
    for roles in 1:1 1:2 2:1 2:3; do
        run $((${roles%:*} + ${roles#*:})) student.yaml output=run "$weight" \
            "student.resources.ranks=${roles%:*}" "teachers.0.resources.ranks=${roles#*:}"
        expect_same_losses both/metrics.csv run/metrics.csv
        rm -r run
    done
}

# Two teachers of other shapes, each run by the students or by any number of replicas: the same losses.
case_two_teachers() {
    local roles students first second
    make_teacher
    run 1 teacher.yaml output=other seed=8 student.model.num_layers=1 student.model.hidden_size=40
    local list=('teachers.1={checkpoint: other/final, transport: logits}' teachers.0.transport=hidden training.steps=12)
    run 1 student.yaml output=both "${list[@]}" teachers.0.resources.ranks=0
    for roles in 1:1:2 1:0:2 2:2:1 2:1:0; do
        IFS=: read -r students first second <<<"$roles"
        run $((students + first + second)) student.yaml output=run "${list[@]}" "student.resources.ranks=$students" \
            "teachers.0.resources.ranks=$first" "teachers.1.resources.ranks=$second"
        expect_same_losses both/metrics.csv run/metrics.csv
        rm -r run
    done
    run 1 student.yaml output=one teachers.0.resources.ranks=0 teachers.0.transport=hidden
    ! cmp -s one/final/model.safetensors both/final/model.safetensors || fail "the second teacher taught nothing"
}

attempt=() # options that tell a worker of its daemon
long=(training.steps=200 checkpoint.every_steps=7)

# start_and_signal SIGNAL CHILD STEP OUTPUT [STUDENTS TEACHERS]: sends it to a rank once that many steps are
# made; the exit code of mpirun is in $code.
start_and_signal() {
    local signal=$1 child=$2 step=$3 output=$4 students=${5:-1} teachers=${6:-1} launcher pid
    "$mpirun" -n $((students + teachers)) "$worker" --job student.yaml --set "output=$output" \
        --set "student.resources.ranks=$students" --set "teachers.0.resources.ranks=$teachers" \
        "${attempt[@]}" \
        "${long[@]/#/--set=}" >>log 2>&1 &
    launcher=$!
    until [ -e "$output/metrics.csv" ] && [ "$(wc -l <"$output/metrics.csv")" -gt "$step" ]; do
        kill -0 "$launcher" 2>/dev/null || { cat log >&2 && fail "the run ended early"; }
        sleep 0.01
    done
    pid=$(pgrep -P "$launcher" | sed -n "${child}p")
    kill "-$signal" "$pid"
    code=0
    wait "$launcher" || code=$?
}

# A stop is noticed while the leader packs a long text, and costs nothing.
case_stop_early() {
    local launcher
    make_teacher
    for _ in {1..200}; do cat text.txt; done >long.txt
    awk -v n=500 '/^data:/ { for (i = 1; i < n; i++) files = files "long.txt, "; sub(/text.txt/, files "long.txt") } { print }' student.yaml >early.yaml
    "$mpirun" -n 2 "$worker" --job early.yaml --set output=early >>log 2>&1 &
    launcher=$!
    until [ -e early/data/train.shard.tmp ]; do
        kill -0 "$launcher" 2>/dev/null || { cat log >&2 && fail "the run ended early"; }
        sleep 0.01
    done
    kill -TERM "$(pgrep -P "$launcher" | sed -n 1p)"
    code=0
    wait "$launcher" || code=$?
    [ "$code" = 3 ] || { cat log >&2 && fail "exit code $code, expected 3"; }
    [ ! -e early/data/train.shard ] || fail "the text was packed before the signal came: nothing was tested"
    [ -z "$(ls early/data)" ] || fail "half a shard is left: $(ls early/data)"
    run 2 student.yaml output=early
    expect_rows early/metrics.csv 12
}

expect_same_end() {
    local file
    for file in final/model.safetensors checkpoints/step-000000000200/train.safetensors; do
        cmp "whole/$file" "broken/$file" || fail "$file differs"
    done
    expect_rows broken/metrics.csv 200
}

# Every step once, in order.
expect_rows() {
    awk -F, 'NR > 1 && $1 != NR - 1 { exit 1 }' "$1" || fail "$1: steps are missing or double"
    [ "$(wc -l <"$1")" = $(($2 + 1)) ] || fail "$1: expected $2 rows"
}

case_resume() {
    make_teacher
    run 2 student.yaml output=whole "${long[@]}"
    start_and_signal KILL 1 $((20 + RANDOM % 40)) broken # the student
    [ "$code" = 137 ] || fail "exit code $code, expected 137"
    start_and_signal KILL 2 $((80 + RANDOM % 60)) broken # the teacher
    run 2 student.yaml output=broken "${long[@]}"
    expect_same_end
    grep -q "resumes at step" log || fail "nothing was resumed"
}

# ranked LEVELS...: from now on rank i of a run has no kernels above that level, as an older processor.
ranked() {
    local levels=("$@") i
    { # what mpirun starts
        echo '#!/usr/bin/env bash'
        for i in "${!levels[@]}"; do
            echo "[ \"\$OMPI_COMM_WORLD_RANK\" != $i ] || export KD_CPU_LEVEL=${levels[i]}"
        done
        echo "exec '$true_worker' \"\$@\""
    } >ranked
    chmod +x ranked
    worker=$folder/ranked
}

# Student ranks on unlike processors round alike: they stay one model, and a resume is exact.
case_levels() {
    local true_worker=$worker students=(student.resources.ranks=2 teachers.0.resources.ranks=0 checkpoint.every_steps=6)
    grep -q '\bavx2\b' /proc/cpuinfo || return 0 # one level is all there is here
    make_teacher
    ranked v3 v2
    run 2 student.yaml output=mixed "${students[@]}"
    grep -q '"cpu_level=v2"' mixed/checkpoints/step-*6/state.json || fail "the lowest level is not recorded"
    cp -r mixed again
    cp -r mixed newer
    rm -r {again,newer}/{final,checkpoints/step-*12}
    run 2 student.yaml output=again "${students[@]}"
    cmp mixed/final/model.safetensors again/final/model.safetensors || fail "unlike ranks: a resume is not exact"
    ranked v3 v3 # what was recorded wins
    run 2 student.yaml output=newer "${students[@]}"
    cmp mixed/final/model.safetensors newer/final/model.safetensors || fail "another level than the recorded one"
    run 2 student.yaml output=high "${students[@]}"
    ! cmp -s mixed/final/model.safetensors high/final/model.safetensors || fail "two levels round alike: nothing was tested"

    # Where the recorded one is not to be had the job goes on, and says what that means.
    rm -r high/{final,checkpoints/step-*12}
    ranked v3 v2
    : >log
    run 2 student.yaml output=high "${students[@]}"
    grep -q 'made with kernels of level v3, which not all student ranks have: goes on with v2' log ||
        fail "a lower level was not told"
    worker=$true_worker
}

case_stop() {
    make_teacher
    run 2 student.yaml output=whole "${long[@]}"
    start_and_signal TERM 1 30 broken
    [ "$code" = 3 ] || { cat log >&2 && fail "exit code $code, expected 3"; }
    [ ! -e broken/final ] || fail "a stopped run has a final model"
    # What cannot be pruned (here it is no folder) is no fault of the run.
    : >broken/checkpoints/.step-000000000001.tmp
    run 2 student.yaml output=broken "${long[@]}"
    expect_same_end
    grep -q "left behind" log || fail "nothing was left behind"
    # Nothing is left to do but to say so, and what an attempt that was killed did not come to.
    run 2 student.yaml output=broken "${long[@]}" checkpoint.keep=1
    expect_same_end
    [ "$(ls broken/checkpoints)" = step-000000000200 ] ||
        fail "more than one checkpoint is left: $(ls broken/checkpoints)"
}

# Each role has the threads that the job gives it, whatever the environment says.
case_threads() {
    local launcher ranks n
    make_teacher
    export OMP_NUM_THREADS=5
    "$mpirun" -n 2 "$worker" --job student.yaml --set output=threads "${long[@]/#/--set=}" \
        --set teachers.0.resources.threads=3 >>log 2>&1 &
    launcher=$!
    until [ -e threads/metrics.csv ] && [ "$(wc -l <threads/metrics.csv)" -gt 3 ]; do
        kill -0 "$launcher" 2>/dev/null || { cat log >&2 && fail "the run ended early"; }
        sleep 0.01
    done
    mapfile -t ranks < <(pgrep -P "$launcher")
    n=$(($(find "/proc/${ranks[1]}/task" -mindepth 1 -maxdepth 1 | wc -l) - $(find "/proc/${ranks[0]}/task" -mindepth 1 -maxdepth 1 | wc -l)))
    tr '\0' '\n' <"/proc/${ranks[0]}/environ" | grep -q '^GOMP_SPINCOUNT=1000$' ||
        fail "threads that wait spin longer than those of the daemon's ranks"
    kill -TERM "${ranks[0]}"
    wait "$launcher" || true
    [ "$n" = 2 ] || fail "the teacher has $n threads more than the student, expected 2"
}

# At this depth some receives of a student never start: with two teachers, those of one of them in a slot.
case_stop_many() {
    local students
    make_teacher
    for students in 1 2; do
        start_and_signal TERM 1 10 "stopped$students" "$students" 2
        [ "$code" = 3 ] || { cat log >&2 && fail "$students:2: exit code $code, expected 3"; }
    done
}

# change_steps FILE: the steps in which changes act.
change_steps() { sed -n 's/{"step":\([0-9]*\),.*/\1/p' "$1" | tr '\n' ' '; }

# Changes of a running job act in the same steps again after a kill, and in a run that has them from the start.
case_changes() {
    local setter students n
    setter=$(dirname "$worker")/support_setter
    make_teacher
    long=(training.steps=150 checkpoint.every_steps=25 evaluation.every_steps=50)
    for students in 1 2; do
        rm -rf broken whole plain
        mkfifo ready
        "$setter" "$folder/setter.sock" attempt 20 objective.kd.temperature 3 20 objective.kd.weight 0 \
            30 training.learning_rate 1e-3 30 training.steps 7 31 objective.kd.wieght 1 32 objective.kd.weight -1 \
            60 objective.kd.weight '{kind: linear, points: [{step: 0, value: 1}, {step: 150, value: 0}]}' >ready &
        setter_pid=$!
        read -r _ <ready
        rm ready
        attempt=(--attempt-file attempt)
        start_and_signal KILL 1 $((85 + RANDOM % 40)) broken "$students" 2
        attempt=()
        kill "$setter_pid"
        wait "$setter_pid" 2>/dev/null || true
        setter_pid=
        [ "$code" = 137 ] || { cat log >&2 && fail "exit code $code, expected 137"; }
        n=$(change_steps broken/changes.jsonl | wc -w)
        [ "$n" = 4 ] || { cat log broken/changes.jsonl >&2 && fail "$n changes in the file, expected 4"; }
        grep -q 'training.steps: does not change' log || fail "a field that is not live was not refused by name"
        grep -q 'did you mean "weight"' log || fail "a misspelt path was not refused"
        grep -q 'found -1' log || fail "a value out of range was not refused"
        [ "$(grep -c 'found -1' log)" = 1 ] && ! grep ' error ' log ||
            fail "a change that was refused is told twice, or as an error"
        printf '{"step":149,"pa' >>broken/changes.jsonl # cut off by a crash: nobody was told
        : >log
        run_roles "$students" 2 broken
        [ "$(change_steps broken/changes.jsonl | wc -w)" = 4 ] || fail "the line that was cut off is still there"
        [ "$(grep -c 'changes.jsonl: step .* becomes' log)" = 4 ] || fail "changes that act again are not told"
        mkdir whole
        cp broken/changes.jsonl whole/
        run_roles "$students" 2 whole
        cmp whole/final/model.safetensors broken/final/model.safetensors ||
            fail "the models differ, changes in steps $(change_steps broken/changes.jsonl)"
        cmp <(cut -d, -f1,3-8 whole/metrics.csv) <(cut -d, -f1,3-8 broken/metrics.csv) || fail "the losses differ"
        # From the step of its change on the rate is another, and without weight kd is not computed.
        expect_changed whole/metrics.csv $(change_steps whole/changes.jsonl)
    done
    run_roles 1 2 plain
    ! cmp -s whole/final/model.safetensors plain/final/model.safetensors || fail "the changes changed nothing"
    echo '{"step": 3}' >>plain/changes.jsonl
    expect_exit 65 "changes of another job" 1 student.yaml output=plain teachers.0.resources.ranks=0 "${long[@]}"
    rm plain/changes.jsonl

    # Another job in the folder of one whose checkpoints are gone: the changes and rows of that one are not its.
    rm -r whole/checkpoints
    long+=(seed=6 evaluation.every_steps=75)
    run_roles 1 2 whole
    grep -q 'holds the changes of another job: moved to' log || fail "changes of another job were not told of"
    run_roles 1 2 other
    cmp whole/final/model.safetensors other/final/model.safetensors || fail "changes of another job acted"
    cmp whole/evaluation.csv other/evaluation.csv || fail "rows of another job are left"
}

# run_roles STUDENTS TEACHERS OUTPUT: the long job to its end.
run_roles() {
    run $(($1 + $2)) student.yaml "output=$3" "student.resources.ranks=$1" "teachers.0.resources.ranks=$2" "${long[@]}"
}

# expect_changed METRICS STEPS...: kd is off between the second and the fourth step, and the rate falls at the third.
expect_changed() {
    awk -F, -v off="$3" -v rate="$4" -v on="$5" '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        {
            step = $1 - 1
            if (($column["kd"] == "") != (step >= off && step < on)) { print "kd in step " step ": " $column["kd"]; exit 1 }
            if (step == rate && $column["learning_rate"] > 0.6 * before) { print "rate in step " step; exit 1 }
            before = $column["learning_rate"]
        }' "$1" >&2 || fail "the changes did not act in their steps: ${*:2}"
}

case_bad_input() {
    make_teacher
    expect_exit 65 "nowhere.yaml" 1 nowhere.yaml
    expect_exit 65 "MPI started 3 ranks" 3 student.yaml
    expect_exit 65 "training.stpes" 2 student.yaml training.stpes=3
    expect_exit 65 "missing.txt" 2 student.yaml 'data.files=[missing.txt]'
    mkdir aside
    cp student.yaml aside # what it names is below its own folder, what is set below this one
    expect_exit 65 "$folder/missing.txt" 2 aside/student.yaml 'data.files=[missing.txt]'
    expect_exit 65 "$folder/aside/text.txt" 2 aside/student.yaml output=aside/out
    : >empty.txt
    expect_exit 65 "empty.txt" 2 student.yaml 'data.files=[empty.txt]'
    expect_exit 65 "nowhere" 2 student.yaml teachers.0.checkpoint=nowhere
    expect_exit 65 "vocabulary" 2 student.yaml student.model.vocab_size=8192
    expect_exit 65 "seed: found 4, the checkpoint was made with 3; name another output folder, or submit the job as it was" 1 teacher.yaml seed=4
    expect_exit 65 "training.decay: found linear, the checkpoint was made with its default" 1 teacher.yaml training.decay=linear
    # Another model at the teacher's path is another job; the same model elsewhere is not.
    run 2 student.yaml output=known
    mv teacher/final moved
    run 2 student.yaml output=known teachers.0.checkpoint=moved
    run 2 student.yaml output=known teachers.0.checkpoint=moved teachers.0.verify=full student.verify=full data.text_field=body
    run 1 teacher.yaml output=other seed=4
    cp -r other/final teacher/final
    expect_exit 65 "teachers.0.checkpoint: found content " 2 student.yaml output=known
    rm -r teacher/final
    mv moved teacher/final
    # A bit in the middle of a tensor of a model without a manifest is seen by those who read all of it.
    local file at
    cp -r teacher/final unsealed
    rm unsealed/manifest.json
    file=unsealed/model.safetensors
    run 2 student.yaml output=edges teachers.0.checkpoint=unsealed
    run 2 student.yaml output=full teachers.0.checkpoint=unsealed teachers.0.verify=full
    expect_exit 65 "of every byte, the checkpoint was made with content " \
        2 student.yaml output=edges teachers.0.checkpoint=unsealed teachers.0.verify=full
    run 2 student.yaml output=full teachers.0.checkpoint=unsealed teachers.0.verify=full
    at=$(($(od -An -tu8 -N8 $file) + 8 + 10000 + $(grep -ao '"model.embed_tokens.weight":{[^}]*' $file | sed 's/.*"data_offsets":\[\([0-9]*\).*/\1/')))
    printf '\xa5' | dd of=$file bs=1 seek=$at conv=notrunc status=none
    run 2 student.yaml output=edges teachers.0.checkpoint=unsealed
    expect_exit 65 "teachers.0.checkpoint: found content " 2 student.yaml output=full \
        teachers.0.checkpoint=unsealed teachers.0.verify=full
    # Other text would be trained on, and some of it was held out before; another date is no other text.
    cp text.txt text.old
    echo "one more word" >>text.txt
    expect_exit 65 "data.files: found content " 1 teacher.yaml
    mv text.old text.txt
    run 1 teacher.yaml
    cp -r teacher/final corrupt
    truncate -s 1000 corrupt/model.safetensors
    expect_exit 65 "corrupt/model.safetensors" 2 student.yaml teachers.0.checkpoint=corrupt
    # One bit of a sealed teacher; its tokenizer; its split.
    cp -r teacher/final flipped
    printf '\xff' | dd of=flipped/model.safetensors bs=1 seek=4000 conv=notrunc status=none
    expect_exit 65 "flipped/model.safetensors has the hash" 2 student.yaml output=new teachers.0.checkpoint=flipped
    cp -r teacher/final words
    rm words/manifest.json
    sed -i 's/"byte"/"words"/' words/distilld.json
    expect_exit 65 'words: found tokenizer "words"' 2 student.yaml output=new \
        teachers.0.checkpoint=words
    : >log
    run 2 student.yaml output=resplit data.split_seed=1 training.steps=1
    grep -q 'teachers.0.checkpoint: .*teacher/final was trained with another split' log || fail "another split is not told"
    : >log
    run 2 student.yaml output=split training.steps=1
    ! grep 'another split' log || fail "the same split is told as another"
    # Two hosts, each with an output folder of its own.
    echo "one more word" | cat text.txt - >other.txt
    run 1 teacher.yaml output=elsewhere 'data.files=[other.txt]'
    code=0
    "$mpirun" -n 1 "$worker" --job student.yaml --set output=here : \
        -n 1 "$worker" --job student.yaml --set output=elsewhere >log 2>&1 || code=$?
    [ "$code" = 65 ] && grep -q "all hosts share" log || { cat log >&2 && fail "exit code $code, expected 65"; }
    # The daemon would refuse it; a rank without one does too.
    expect_exit 65 "found sequences of 33 tokens, expected at most 32" 2 student.yaml output=long data.sequence_length=33
    # A fault of one rank in the middle of the work ends all of them with its reason.
    mkdir -p jammed/metrics.csv
    expect_exit 65 "jammed/metrics.csv" 2 student.yaml output=jammed
    expect_exit 65 "jammed/metrics.csv" 3 student.yaml output=jammed student.resources.ranks=2
    # What a person put beside the model is not removed with it, and that is told at the start.
    mkdir -p taken/final
    : >taken/final/notes
    expect_exit 65 'taken/final is not replaced: it holds "notes"' 2 student.yaml output=taken
    [ -e taken/final/notes ] && [ ! -e taken/metrics.csv ] || fail "a run went into a folder that is taken"
    # Numbers that leave all bounds would do so again.
    expect_exit 65 "expected a number" 2 student.yaml output=diverged training.learning_rate=1e30
    ! grep -i '[^a-z]nan' log || fail "the log says nan"
    # A checkpoint that no step can be made from takes no other's place.
    run 1 teacher.yaml output=kept training.steps=4 checkpoint.every_steps=1 checkpoint.keep=3
    rm -r kept/checkpoints/step-00000000000[34]
    expect_exit 65 "expected a number" 1 teacher.yaml output=kept training.steps=4 training.learning_rate=1e30 \
        checkpoint.every_steps=1 checkpoint.keep=1
    [ -e kept/checkpoints/step-000000000003 ] || fail "nothing was saved before the losses left all bounds"
    [ -e kept/checkpoints/step-000000000002 ] || fail "the last good checkpoint is gone"
    expect_exit 65 "kept/checkpoints/step-000000000003: the first step from this checkpoint failed" 1 teacher.yaml \
        output=kept training.steps=4
    # Nobody sees the losses of what the last update makes.
    expect_exit 65 ".weight\" is not a number in F32, expected a number: not written" 1 teacher.yaml \
        output=overflown training.steps=1 training.learning_rate=1e38 training.weight_decay=100 data.held_out=0
    [ ! -e overflown/final ] || fail "weights that are no numbers are a final model"
    : >file
    expect_exit 65 "cannot make folder" 2 student.yaml output=file/student
}

# The step behind an evaluation is not told to have lasted as long as both.
case_rates() {
    make_teacher
    run 1 teacher.yaml output=timed training.steps=30 training.batch_size=4 data.held_out=0.5 \
        evaluation.every_steps=2 evaluation.max_sequences=0
    awk -F, '
        function median(v, n,   i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
            return v[int((n + 1) / 2)]
        }
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == "tokens_per_second") at = i; next }
        $1 > 2 && $1 % 2 == 1 { behind[++n] = $at }
        $1 > 2 && $1 % 2 == 0 { other[++k] = $at }
        END {
            a = median(behind, n); b = median(other, k)
            print "behind an evaluation " a " tokens/s, otherwise " b
            exit !(n == 14 && a > 0.5 * b)
        }' timed/metrics.csv >>log || { tail -n 1 log >&2 && fail "rates behind an evaluation"; }
}

# A level of the log is that of all its lines.
case_log_level() {
    make_teacher
    local level
    for level in debug error; do
        "$mpirun" -n 1 "$worker" --job teacher.yaml --set "output=$level" --log-level "$level" >"log.$level" 2>&1
    done
    grep -q ' debug rank 0: step 1: ' log.debug || fail "no line of level debug"
    ! grep -E ' (debug|info|warn) rank' log.error || fail "lines below the level asked for"
}

# Two runs of one output folder: the second waits for the first one's end, then goes on from there.
case_lock() {
    make_teacher
    run 1 teacher.yaml output=shared &
    run 1 teacher.yaml output=shared
    wait
    cmp teacher/final/model.safetensors shared/final/model.safetensors || fail "the models differ"
    exec 9>shared/.lock
    flock 9
    expect_exit 70 "another run writes into this folder" 1 teacher.yaml output=shared
}

# Student and teacher each have a dtype; what auto came to stands in the output, in words that hold.
case_dtype() {
    local state mixed=(training.dtype=bf16 teachers.0.dtype=f32)
    make_teacher
    run 2 student.yaml output=remote "${mixed[@]}"
    run 1 student.yaml output=local teachers.0.resources.ranks=0 "${mixed[@]}"
    cmp remote/final/model.safetensors local/final/model.safetensors || fail "the models differ"
    grep -q '^ *dtype: bf16' remote/job.yaml || fail "job.yaml lacks the student's dtype"
    state=$(tr -d ' \n' <"$(ls -d remote/checkpoints/step-*/ | tail -n 1)state.json")
    [[ $state == *'"resolved":["training.dtype=bf16","training.micro_batch_size=4","teachers.0.dtype=f32","teachers.0.transport=hidden","cpu_level='* ]] ||
        fail "state.json has $state"
    run 2 student.yaml output=auto training.dtype=auto teachers.0.dtype=auto
    ! grep -q 'dtype: auto' auto/job.yaml || fail "auto was not resolved"
    [ "$(grep -c 'dtype: \(f32\|bf16\)' auto/job.yaml)" = 2 ] || fail "job.yaml lacks a dtype"
    run 2 student.yaml output=auto training.dtype=auto teachers.0.dtype=auto
    # Whatever this machine would come to, one of the two is not that.
    local auto=(training.dtype=auto teachers.0.dtype=auto training.micro_batch_size=) whole=("${long[@]}")
    local long=("${whole[@]}" "${mixed[@]}")
    run 2 student.yaml output=whole "${long[@]}"
    start_and_signal TERM 1 30 broken
    [ "$code" = 3 ] || { cat log >&2 && fail "exit code $code, expected 3"; }
    run 2 student.yaml output=broken "${whole[@]}" "${auto[@]}"
    expect_same_end
    cmp <(grep -v '^output:' whole/job.yaml) <(grep -v '^output:' broken/job.yaml) || fail "job.yaml differs"
    expect_exit 65 "training.dtype: found f32, the checkpoint was made with bf16" 2 student.yaml output=broken "${whole[@]}"
    expect_exit 65 "teachers.0.transport: found logits, the checkpoint was made with hidden" 2 student.yaml \
        output=broken "${whole[@]}" "${auto[@]}" teachers.0.transport=logits
    # The output's own job.yaml is the job.
    cp broken/job.yaml again.yaml
    run 2 again.yaml
    # 4 ranks of 16 sequences take 4 at once, fewer would take 8.
    run 4 teacher.yaml output=cut student.resources.ranks=4 training.micro_batch_size=
    run 1 teacher.yaml output=cut training.micro_batch_size=
    grep -q 'micro_batch_size: 4' cut/job.yaml || fail "job.yaml lacks the micro-batch size"
    run 1 teacher.yaml output=uncut training.micro_batch_size=
    expect_exit 65 "student.resources.ranks: found 4, but the checkpoint was made with micro-batches of 8" \
        4 teacher.yaml output=uncut student.resources.ranks=4 training.micro_batch_size=
}

# Random models from a shape: of every type, the same for a seed, of use to the other commands.
check_create() { # distill-model
    local type
    for type in llama mixtral qwen2_moe qwen3_moe olmoe; do
        local experts=(--experts 2)
        [ "$type" != llama ] || experts=()
        "$1" create --out "random/$type" --type "$type" --hidden-size 64 --layers 2 "${experts[@]}" --seed 3 \
            --dtype f32 --tokenizer byte --sequence-length 48 >/dev/null || fail "create $type"
        "$1" inspect "random/$type" --json | grep -q "\"type\":\"$type\",\"vocab_size\":256,\"hidden_size\":64,\"layers\":2" ||
            fail "a random $type is of another shape"
        "$1" evaluate "random/$type" --data text.txt --sequence-length 32 --max-sequences 4 | grep -q '^loss 5\.[0-9]* nats' ||
            fail "a random $type guesses better or worse than chance"
    done
    "$1" create --out random/again --hidden-size 64 --num-layers 2 --num-experts 2 --seed 3 --dtype f32 --threads 2 >/dev/null
    cmp random/again/model.safetensors random/mixtral/model.safetensors || fail "a seed gives two models"
    "$1" create --out random/other --hidden-size 64 --layers 2 --experts 2 --seed 4 --dtype f32 >/dev/null
    ! cmp -s random/other/model.safetensors random/mixtral/model.safetensors || fail "two seeds give one model"
    "$1" create --out random/high --hidden-size 64 --layers 2 --experts 2 --seed $((4294967296 + 3)) --dtype f32 >/dev/null
    ! cmp -s random/high/model.safetensors random/mixtral/model.safetensors || fail "a seed is cut to 32 bits"
    expect_code 65 "$1" create --out random/mixtral --hidden-size 64 --layers 2 --experts 2
    expect_code 65 "$1" create --out random/no --hidden-size 64 --layers 2 --type llama --experts 2
    expect_code 65 "$1" create --out random/no --hidden-size 64 --layers 2
    expect_code 65 "$1" create --out random/no --hidden-size 64 --layers 2 --experts 2 --type mixtrel
    : >log
    expect_code 65 "$1" create --out random/no --hidden-size 64 --layers 2 --experts 2 --heads 3
    grep -q 'head_dim: found nothing, .*(64) is no multiple of num_heads (3)' log || fail "the width of heads is not told"
    expect_code 64 "$1" create --out "" --hidden-size 64 --layers 2 --experts 2
    expect_code 64 "$1" create --out random/no --hidden-sise 64
    expect_code 64 "$1" create --hidden-size 64 --layers 2 --experts 2
    [ ! -e random/no ] || fail "a model that was refused left a folder"
}

# Where no CUDA device is to be seen, whether this worker can use one or not: jobs run on the CPU unless they insist.
case_no_device() {
    export CUDA_VISIBLE_DEVICES=
    make_teacher
    run 2 student.yaml output=auto student.resources.device=auto training.steps=2
    expect_exit 65 "student.resources.device: found cuda" 1 teacher.yaml output=none student.resources.device=cuda
    grep -q "no CUDA device" log || fail "the log does not say that there is no CUDA device"
    expect_exit 65 "no CUDA device" 2 student.yaml output=none teachers.0.resources.device=cuda
}

# Halves of layers are graphs, with signals and gradients between them.
case_cuda_graphs() {
    local t=teachers.0.resources s=student.resources few=(training.steps=3 teachers.0.dtype=f32 evaluation.max_sequences=2)
    make_teacher student.resources.device=cpu
    run 2 student.yaml output=cpu $t.device=cpu $s.device=cpu "${few[@]}"
    run 2 student.yaml output=cuda $t.device=cuda $s.device=cuda "${few[@]}"
    expect_same_losses cpu/metrics.csv cuda/metrics.csv 3
    run 1 student.yaml output=beside $t.ranks=0 $t.device=cuda $s.device=cuda "${few[@]}"
    expect_same_losses cpu/metrics.csv beside/metrics.csv 3
}

# Of a worker whose CUDA devices are emulated: whichever of the roles runs on one, the losses are the same; in the
# same places they have the same bits, whatever the schedule, and a resume ends as a run that was not cut.
case_cuda() {
    local t=teachers.0.resources s=student.resources pair few=(training.steps=2 teachers.0.dtype=f32 evaluation.max_sequences=2)
    export KD_CUDA_HOST_CLOSED=1
    make_teacher student.resources.device=cpu
    run 2 student.yaml output=cpu:cpu $t.device=cpu $s.device=cpu "${few[@]}"
    for pair in cuda:cuda cuda:cpu cpu:cuda; do # teacher:student
        run 2 student.yaml output=$pair $t.device=${pair%:*} $s.device=${pair#*:} "${few[@]}"
        expect_same_losses cpu:cpu/metrics.csv $pair/metrics.csv 2
        expect_parts $pair/metrics.csv count forward signals loss backward update
        run 1 student.yaml output=beside-$pair $t.ranks=0 $t.device=${pair%:*} $s.device=${pair#*:} "${few[@]}"
        expect_same_losses cpu:cpu/metrics.csv beside-$pair/metrics.csv 2
        expect_parts beside-$pair/metrics.csv count forward teacher loss backward update
    done
    run 2 student.yaml output=shared $t.ranks=0 $s.ranks=2 "${few[@]}" # one device, two ranks
    expect_same_losses cpu:cpu/metrics.csv shared/metrics.csv 2
    grep -q 'rank 1: teachers.0 on emulated device 0, number 0$' log || fail "a rank does not say what it runs on"
    grep -q 'rank 0: student and teachers.0 on emulated device 0, number 0$' log || fail "nor what it runs besides"
    grep -q '"cpu_level=sm_' shared/checkpoints/step-*/state.json || fail "the kind of GPU is not recorded"
    KD_CUDA_HOST_DEVICES=0 expect_exit 65 "no CUDA device" 2 student.yaml output=none $s.device=cuda
}

# Through host memory, straight from the device's, which MPI can read of an emulated one, or between devices of
# a host: signals and gradients of two students are the same bytes.
case_cuda_ways() {
    local way mpi sharing text few=(training.steps=3 evaluation.max_sequences=2 student.resources.ranks=2)
    make_teacher student.resources.device=cpu
    for way in no:no:"by MPI through host memory, to and from device memory by transfers" \
        yes:no:"by MPI from device memory" no:yes:"from device memory to device memory"; do
        IFS=: read -r mpi sharing text <<<"$way"
        : >log
        KD_MPI_DEVICE_MEMORY=$mpi KD_DEVICE_SHARING=$sharing run 3 student.yaml output=device-$mpi-$sharing "${few[@]}"
        [ "$(grep -c "signals of teachers.0 go $text$" log)" = 3 ] || fail "$text: not told by each rank"
        cmp device-{no-no,$mpi-$sharing}/final/model.safetensors || fail "$text: ended in other bytes"
    done
    : >log
    KD_MPI_DEVICE_MEMORY=maybe run 3 student.yaml output=device-maybe "${few[@]}" training.steps=1
    grep -q 'KD_MPI_DEVICE_MEMORY: found "maybe", expected yes or no: taken for no$' log || fail "a wrong word is not told"
}

# As auto places it and bf16 rounds it, with the device's work in other orders.
case_cuda_resume() {
    local few=(training.steps=4 training.dtype=auto evaluation.max_sequences=2 checkpoint.every_steps=2)
    make_teacher student.resources.device=cpu
    run 2 student.yaml output=whole "${few[@]}"
    grep -q "dtype: bf16" whole/job.yaml || fail "a device that multiplies bf16 did not get it"
    cp -r whole broken
    rm -r broken/final broken/checkpoints/step-*4
    KD_CUDA_HOST_SEED=3 run 2 student.yaml output=broken "${few[@]}"
    grep -q "resumes at step 2" log || fail "nothing was resumed"
    cmp whole/final/model.safetensors broken/final/model.safetensors || fail "a resumed run ended in other bytes"
}

# The tool's models run there, too: the same loss as on the processor, and bf16 by itself.
case_cuda_model() {
    local tool device losses=()
    tool=$(dirname "$worker")/distill-model-emulated
    make_teacher student.resources.device=cpu
    local evaluate=("$tool" evaluate teacher/final --data text.txt --sequence-length 16 --max-sequences 4)
    for device in cpu cuda; do
        losses+=("$("${evaluate[@]}" --device $device --dtype f32 --json | sed 's/.*"loss":\([^,]*\).*/\1/')")
    done
    awk -v a="${losses[0]}" -v b="${losses[1]}" 'BEGIN { exit !(a > 0 && a != b && (a - b) ^ 2 < 1e-10 * a * a) }' ||
        fail "losses on cpu and cuda: ${losses[*]}, expected the same but for rounding"
    cmp <("${evaluate[@]}" --json) <("${evaluate[@]}" --device cuda --dtype bf16 --json) || fail "auto is not the device's bf16"
    : >log
    KD_CUDA_HOST_DEVICES=0 expect_code 65 "${evaluate[@]}" --device cuda
    grep -q "no CUDA device" log || fail "the log does not say that there is no CUDA device"
    KD_CUDA_HOST_DEVICES=0 "${evaluate[@]}" | grep -q '^loss' || fail "auto without a device"
    expect_code 64 "${evaluate[@]}" --device gpu
}

# What a plan says that ranks hold, wherever their roles run, is what they hold if they share no device memory; of a
# GPU's scratch memory it says that it does not know it.
case_cuda_plan() {
    local tool pair teacher student ranks planned held known t=teachers.0.resources s=student.resources
    tool=$(dirname "$worker")/distill-model-emulated
    make_teacher student.resources.device=cpu
    for pair in cuda:cuda:1 cuda:cpu:1 cpu:cuda:1 cuda:cuda:0 cuda:cpu:0 cpu:cuda:0; do # teacher:student:teacher's ranks
        IFS=: read -r teacher student ranks <<<"$pair"
        local job=($t.device=$teacher $s.device=$student $t.ranks=$ranks training.steps=1 training.batch_size=8
            training.dtype=bf16 evaluation.max_sequences=2)
        "$tool" plan student.yaml "${job[@]/#/--set=}" --json >plan.json
        planned=$(jq -r '[.roles[] | select(.ranks > 0)] | to_entries[] | "rank \(.key): \(.value.held_bytes)"' plan.json)
        known=$(jq -r '[.roles[] | select(.ranks > 0) | .scratch_bytes != null] | join(" ")' plan.json)
        : >log
        KD_MPI_DEVICE_MEMORY=no KD_DEVICE_SHARING=no run $((ranks + 1)) student.yaml output=plan-$pair "${job[@]}"
        held=$(sed -nE 's/.*(rank [0-9]+): memory: ([0-9]+) B held.*/\1: \2/p' log | sort)
        [ -n "$held" ] && [ "$held" = "$planned" ] || fail "$pair: held $held, planned $planned"
        case $pair in
        cuda:cpu:1) [ "$known" = "true false" ] || fail "$pair: scratch memory known: $known" ;;
        cpu:cuda:1) [ "$known" = "false true" ] || fail "$pair: scratch memory known: $known" ;;
        *) [[ $known != *true* ]] || fail "$pair: scratch memory known: $known" ;;
        esac
        [[ $known != *false* ]] || "$tool" plan student.yaml "${job[@]/#/--set=}" | grep -q 'workspace of the GPU *not known' ||
            fail "$pair: the table does not say what is not known"
    done
}

# A kernel that fails, and with it the device, ends the attempt with its reason, and may be tried again.
case_cuda_fault() {
    local role rank at t=teachers.0.resources.device s=student.resources.device
    make_teacher student.resources.device=cpu
    for role in student:0:600 teacher:1:300; do
        IFS=: read -r role rank at <<<"$role"
        local job=(training.steps=4 evaluation.max_sequences=2 checkpoint.every_steps=1 $t=cpu $s=cpu)
        [ $role = student ] && job+=($s=cuda) || job+=($t=cuda)
        run 2 student.yaml output=whole-$role "${job[@]}"
        KD_CUDA_HOST_FAULT_AT=$at expect_exit 74 "unspecified launch failure" 2 student.yaml \
            "output=$folder/broken-$role" "${job[@]}"
        grep -q "error rank $rank: emulated device 0: " log || fail "$role: neither rank nor device is named"
        ! pgrep -f "$folder/broken-$role" >/dev/null || fail "$role: something runs on"
        [ ! -e broken-$role/final ] || fail "$role: kernel $at is none: nothing failed"
        run 2 student.yaml output=broken-$role "${job[@]}"
        grep -q "resumes at step" log || fail "$role: nothing was resumed"
        cmp {whole,broken}-$role/final/model.safetensors || fail "$role: a resumed run ended in other bytes"
    done
}

# A device with more memory from try to try, by what the last one lacked: each refusal says for what, how much,
# and what was free, and it is the host's.
case_cuda_memory() {
    local memory=$((1 << 20)) placed= code name need free
    make_teacher student.resources.device=cpu
    for _ in {1..40}; do
        code=0
        : >log
        KD_CUDA_HOST_MEMORY=$memory may_fail=1 run 1 teacher.yaml output=small student.resources.device=cuda \
            training.steps=1 evaluation.max_sequences=2 || code=$?
        [ "$code" != 0 ] || break
        [ "$code" = 70 ] || { cat log >&2 && fail "exit code $code, expected 70"; }
        read -r need free name < <(sed -n 's/.*error rank 0: \(.*\)no memory for \([0-9]*\) bytes of the device\(, for [a-z ]*\)\?: out of memory; \([0-9]*\) of '$memory' bytes are free on emulated device 0$/\2 \4 \1\3/p' log) ||
            { cat log >&2 && fail "the refusal is not told"; }
        [ "$need" -gt "$free" ] || fail "$need bytes were refused where $free were free"
        placed+="$name; "
        memory=$((memory + need - free + 65536))
        [[ $name != *operation* ]] || memory=$((memory + (64 << 20))) # one of many
    done
    [ "$code" = 0 ] || fail "no memory was enough: $placed"
    for name in ", for products; " " parameters and their gradients:; " "activations of 4 sequences of 32 tokens:; " \
        "moments of " ", for an operation; "; do
        [[ $placed == *"$name"* ]] || fail "\"$name\" is not in \"$placed\""
    done
}

# The local tool says of a model what the run that made it said.
case_model() {
    local tool loss found
    tool=$(dirname "$worker")/distill-model
    make_teacher
    "$tool" inspect teacher/final --json | grep -q '"type":"mixtral","vocab_size":256,"hidden_size":32,"layers":2' ||
        fail "inspect does not show the shape"
    loss=$(tail -n 1 teacher/evaluation.csv | cut -d, -f2)
    found=$("$tool" evaluate teacher/final --data teacher/data/test.shard --sequence-length 32 \
        --max-sequences 16 --dtype f32 --json | sed 's/.*"loss":\([^,]*\).*/\1/')
    awk -v a="$loss" -v b="$found" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-10 * a * a) }' ||
        fail "evaluate found loss $found, the run $loss"
    "$tool" evaluate teacher/final --data text.txt | grep -q '^loss [0-9.]* nats a token' || fail "evaluate on text"
    mkdir scratch
    TMPDIR=$folder/scratch "$tool" evaluate teacher/final --data text.txt >/dev/null || fail "evaluate in TMPDIR"
    [ -z "$(ls scratch)" ] || fail "evaluate left something in TMPDIR"
    : >log
    TMPDIR=$folder/none expect_code 74 "$tool" evaluate teacher/final --data text.txt
    grep -q "cannot make the folder $folder/none/distill-model.[^:]*: No such file or directory" log || fail "TMPDIR"
    expect_code 65 "$tool" evaluate teacher/final --data text.txt --sequence-length 33
    grep -q 'found sequences of 33 tokens, expected at most 32' log || fail "sequences longer than the positions"
    cp -r teacher/final words
    sed -i 's/"byte"/"words"/' words/distilld.json
    : >log
    expect_code 65 "$tool" evaluate words --data text.txt
    grep -q 'words: found tokenizer "words"' log || fail "another tokenizer is not named"
    : >log
    expect_code 64 "$tool" inspect teacher/final --jsno
    expect_code 64 "$tool" evaluate teacher/final --data text.txt --dtype f16
    "$tool" evaluate teacher/final --data text.txt --dtype bf16 | grep -q '^loss ' || fail "evaluate in bf16"
    grep -q -- '--jsno: no such option; did you mean "--json"?' log || fail "a misspelt option is not named"
    expect_code 64 "$tool" evaluate teacher/final --data text.txt --threads 100000
    grep -q -- '--threads: found "100000", expected a number from 1 to 1024' log || fail "a number of threads is not refused"
    expect_code 65 "$tool" inspect nowhere
    cp -r teacher/final torn
    truncate -s 4000 torn/model.safetensors
    expect_code 65 "$tool" inspect torn >/dev/null
    rm torn/manifest.json
    expect_code 65 "$tool" inspect torn >/dev/null
    rm torn/model.safetensors
    expect_code 65 "$tool" inspect torn >/dev/null
    expect_code 65 "$tool" evaluate teacher/final --data nowhere.txt
    expect_code 74 "$tool" inspect teacher/final >/dev/full
    check_create "$tool"
}

"case_$2"
