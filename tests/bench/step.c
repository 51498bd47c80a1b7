/*
 * step.c - a whole distillation step, and what share of the machine's matrix rate it reaches:
 * mpirun -n 2 bench_step (tests/bench/step builds and starts it).
 *
 * Teacher: 6 layers, C 512, H 8, G 4, F 1024, E 8, K 2; student: 4 layers, C 256, H 4, G 2, F 512, E 4,
 * K 2; V 4096, T 256, batch 16, random weights and tokens, one thread a rank if not told. A step is the
 * teacher's forward pass, the stream, the student's forward and backward pass, the losses, AdamW.
 *
 * tokens_per_second   the batch's tokens over the median time of a step after two of warm-up
 * peak_memory_mb      VmHWM of all ranks together
 * matrix_rate_share   tokens/s * FLOP of matrix products per token (kd_model_config_forward_flops(), three
 *                     times the student's) over the rate of products of that dtype of 1024 x 512 x 1024, measured
 *                     on all ranks at once, before and after the steps
 */
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "comm/stream.h"
#include "distill/teacher.h"
#include "job/job.h"
#include "message/reflect.h"
#include "shape/count.h"
#include "tests/bench/matrix_rate.h"
#include "train/step.h"

enum { N_TOKENS = 256, N_BATCH = 16, N_VOCAB = 4096, N_WARM_UP = 2, STEPS_MAX = 1000 };

static const kd_model_config teacher_shape = {
    .type = &kd_model_mixtral,
    .vocab_size = N_VOCAB,
    .hidden_size = 512,
    .n_layers = 6,
    .n_heads = 8,
    .n_kv_heads = 4,
    .head_dim = 64,
    .intermediate_size = 1024,
    .n_experts = 8,
    .experts_per_token = 2,
    .norm_topk = true,
    .rope_theta = 10000.0,
    .norm_eps = 1e-6f,
};

static const kd_model_config student_shape = {
    .type = &kd_model_mixtral,
    .vocab_size = N_VOCAB,
    .hidden_size = 256,
    .n_layers = 4,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .intermediate_size = 512,
    .n_experts = 4,
    .experts_per_token = 2,
    .norm_topk = true,
    .rope_theta = 10000.0,
    .norm_eps = 1e-6f,
};

typedef struct options {
    bool json;
    kd_dtype compute; /* of both models */
    const char *losses;
    int n_steps;
    int n_micro; /* sequences of a micro-batch */
    int depth;
    int n_students, n_teachers;
    int n_threads; /* of each rank */
} options;

typedef struct bench {
    options o;
    kd_world *world;
    kd_backend *be;
    Kd__Objective *objective;
    kd_signal_plan plan;
    kd_teacher *teacher; /* of this rank, or NULL */
    kd_trainer *trainer; /* of this rank, or NULL */
    kd_channel *channel;
    kd_reduce reduce;
    int32_t *tokens, *labels; /* (N_BATCH, N_TOKENS), every step the same */
    double step_s[STEPS_MAX];
    double stall_s; /* of all timed steps */
} bench;

/* A benchmark has nobody to hand a fault to but the launcher. */
static void must(int failed, const char *what)
{
    if (failed) {
        (void)fprintf(stderr, "bench_step: %s failed: %s\n", what, kd_fault_text());
        MPI_Abort(MPI_COMM_WORLD, 70);
    }
}

static const char usage[] =
    "usage: mpirun -n RANKS bench_step [--dtype auto|bf16|f32] [--losses NAME,...]\n"
    "                                  [--steps N] [--json]\n"
    "                                  [--micro SEQUENCES] [--depth N] [--threads N]\n"
    "                                  [--roles TEACHERS:STUDENTS]\n";

/* The number behind an option, or the end of the program. */
static int number(const char *text, int least, int most)
{
    char *end = NULL;
    const long value = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || *end != '\0' || value < least || value > most) {
        (void)fprintf(stderr, "%s", usage);
        exit(64);
    }
    return (int)value;
}

/* By the rule of jobs, for this machine alone. */
static kd_dtype dtype_of(const char *word)
{
    if (strcmp(word, "auto") == 0) {
        return kd_dtype_auto(1, kd_cpu_multiplies_bf16() ? 1 : 0);
    }
    if (strcmp(word, "f32") != 0 && strcmp(word, "bf16") != 0) {
        (void)number(NULL, 0, 0);
    }
    return strcmp(word, "f32") == 0 ? KD_F32 : KD_BF16;
}

static options parse(int argc, char **argv)
{
    options o = {false, dtype_of("auto"), "kd,hard", 10, 8, 2, 1, 1, 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--help") == 0) {
            exit(fputs(usage, stdout) < 0 ? 74 : 0);
        }
        if (strcmp(argv[i], "--json") == 0) {
            o.json = true;
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--losses") == 0 && value != NULL) {
            o.losses = value;
        } else if (strcmp(argv[i - 1], "--dtype") == 0 && value != NULL) {
            o.compute = dtype_of(value);
        } else if (strcmp(argv[i - 1], "--steps") == 0) {
            o.n_steps = number(value, 1, STEPS_MAX);
        } else if (strcmp(argv[i - 1], "--micro") == 0) {
            o.n_micro = number(value, 1, N_BATCH);
        } else if (strcmp(argv[i - 1], "--depth") == 0) {
            o.depth = number(value, 1, 64);
        } else if (strcmp(argv[i - 1], "--threads") == 0) {
            o.n_threads = number(value, 1, 1024);
        } else if (strcmp(argv[i - 1], "--roles") == 0 && value != NULL && value[0] != '\0' &&
                   value[1] == ':') {
            o.n_teachers = value[0] - '0';
            o.n_students = number(value + 2, 1, N_BATCH);
        } else {
            (void)number(NULL, 0, 0);
        }
    }
    if (N_BATCH % (o.n_micro * o.n_students) != 0) {
        (void)number(NULL, 0, 0);
    }
    return o;
}

/* The losses named, with the weights of a job that says nothing of them; the others are not there. */
static Kd__Objective *objective(const char *losses)
{
    const ProtobufCMessageDescriptor *type = &kd__objective__descriptor;
    Kd__Objective *message = (Kd__Objective *)kd_message_create(type);
    bool wanted[KD_LOSSES_MAX] = {false};
    char names[256];
    must(message == NULL || kd_job_complete_objective(message, true), "the objective");
    (void)snprintf(names, sizeof names, "%s", losses);
    for (char *name = strtok(names, ","); name != NULL; name = strtok(NULL, ",")) {
        const ProtobufCFieldDescriptor *field = kd_message_field(type, name);
        must(field == NULL, "--losses");
        wanted[field - type->fields] = true;
    }
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (!wanted[i]) {
            kd_message_clear(&message->base, &type->fields[i]);
        }
    }
    return message;
}

/* Training start values, also for a model that only infers. */
static kd_parameters *parameters(bench *b, const kd_model_config *config, kd_parameter_use use)
{
    enum { CHUNK = 65536 };

    static float values[CHUNK];
    kd_parameters *params = NULL;
    must(kd_parameters_create(b->be, config, use, &params), "kd_parameters_create");
    for (int64_t at = 0; at < params->n_elements; at += CHUNK) {
        const int64_t n = params->n_elements - at < CHUNK ? params->n_elements - at : CHUNK;
        for (int64_t i = 0; i < n; i++) {
            values[i] = at + i < params->n_matrix
                            ? 0.02f * (float)kd_rng_normal(7, (uint64_t)(at + i))
                            : 1.0f;
        }
        kd_parameters_write(params, at, values, n);
    }
    return params;
}

static void on_block(void *user)
{
    const bench *b = user;
    if (b->channel != NULL) {
        b->channel->ops->progress(b->channel);
    }
}

static kd_status next_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    const bench *b = user;
    const uint64_t at = m % (uint64_t)(N_BATCH / b->o.n_micro) * (uint64_t)b->o.n_micro * N_TOKENS;
    *batch_out = (kd_batch){.n_batch = b->o.n_micro,
                            .n_tokens = N_TOKENS,
                            .tokens = b->tokens + at,
                            .labels = b->labels + at};
    return KD_OK;
}

/* Those that any loss of this run reads. */
static uint64_t all_groups(const bench *b)
{
    return kd_signal_plan_mask(&b->plan, 0, ~UINT64_C(0));
}

static kd_status produce(void *user, uint64_t m, uint64_t groups, void *message)
{
    bench *b = user;
    kd_batch batch;
    (void)next_batch(b, m, &batch);
    const kd_teacher_part part = {&b->plan, 0, groups};
    return kd_teacher_fill(b->teacher, &batch, &part, message);
}

static void make_teacher(bench *b)
{
    const kd_teacher_settings settings = {b->o.n_micro, N_TOKENS, on_block, b};
    must(kd_teacher_create(parameters(b, &teacher_shape, KD_PARAMS_INFER), &settings, &b->teacher),
         "kd_teacher_create");
}

/* The lm_head alone, where hidden states come from another rank. */
static kd_tensor teacher_lm_head(bench *b)
{
    const size_t n = (size_t)N_VOCAB * (size_t)teacher_shape.hidden_size;
    if (b->teacher != NULL) {
        return kd_teacher_lm_head(b->teacher);
    }
    const kd_tensor t =
        kd_tensor_2d(b->be->ops->alloc(b->be, KD_MEMORY_DEVICE, n * kd_dtype_bytes(b->o.compute)),
                     b->o.compute, N_VOCAB, teacher_shape.hidden_size);
    float *values = malloc(n * sizeof *values);
    must(t.data == NULL || values == NULL, "memory for the lm_head");
    for (size_t i = 0; i < n; i++) {
        values[i] = 0.02f * (float)kd_rng_normal(9, i);
    }
    const kd_tensor wide = kd_tensor_2d(values, KD_F32, N_VOCAB, teacher_shape.hidden_size);
    b->be->ops->copy(b->be, t, wide);
    must(kd_backend_wait(b->be), "copy");
    free(values);
    return t;
}

static void make_student(bench *b)
{
    const bool taught = b->plan.n_signals > 0;
    Kd__Training training = KD__TRAINING__INIT;
    const kd_trainer_settings settings = {.objective = b->objective,
                                          .training = &training,
                                          .max_batch = b->o.n_micro,
                                          .n_tokens = N_TOKENS};
    const kd_teacher_view teacher = {.config = &teacher_shape,
                                     .compute = b->o.compute,
                                     .lm_head = taught ? teacher_lm_head(b) : kd_tensor_none()};
    training.has_decay = 1;
    training.decay = KD__TRAINING__DECAY__CONSTANT;
    must(kd_trainer_create(parameters(b, &student_shape, KD_PARAMS_TRAIN), &settings, &teacher,
                           taught ? 1 : 0, &b->trainer),
         "kd_trainer_create");
    b->reduce = kd_world_reduce(b->world);
}

static void set_up(bench *b)
{
    const uint64_t n_micro = (uint64_t)(N_BATCH / b->o.n_micro);
    const uint64_t end_m = n_micro * (uint64_t)(N_WARM_UP + b->o.n_steps);
    const bool student = kd_world_role(b->world) == KD_ROLE_STUDENT;
    const kd_teacher_view teacher = {.config = &teacher_shape, .compute = b->o.compute};

    must(kd_backend_create_cpu(b->o.compute, b->o.n_threads, &b->be), "kd_backend_create_cpu");
    b->objective = objective(b->o.losses);
    must(kd_objective_plan(b->objective, &student_shape, &teacher, 1,
                           (int64_t)b->o.n_micro * N_TOKENS, &b->plan),
         "kd_objective_plan");
    b->tokens = malloc(2 * N_BATCH * N_TOKENS * sizeof *b->tokens);
    must(b->tokens == NULL, "memory for tokens");
    b->labels = b->tokens + N_BATCH * N_TOKENS;
    for (uint64_t i = 0; i < N_BATCH * N_TOKENS; i++) {
        b->tokens[i] = (int32_t)(kd_rng_u64(1, i) % N_VOCAB);
        b->labels[i] = (int32_t)(kd_rng_u64(2, i) % N_VOCAB);
    }
    if (b->plan.n_signals > 0 && (!student || b->o.n_teachers == 0)) {
        make_teacher(b);
    }
    if (student) {
        make_student(b);
    }
    if (b->plan.n_signals > 0 && b->o.n_teachers > 0) {
        const kd_stream_settings settings = {
            .plan = &b->plan.messages[0], .be = b->be, .depth = b->o.depth, .n_steps = 1};
        must(kd_stream_create(b->world, &settings, &b->channel), "kd_stream_create");
    } else if (b->plan.n_signals > 0) {
        const kd_local_settings settings = {.plan = &b->plan.messages[0],
                                            .n_steps = 1,
                                            .writer = b->be,
                                            .reader = b->be,
                                            .produce = produce,
                                            .user = b};
        must(kd_channel_create_local(&settings, &b->channel), "kd_channel_create_local");
    }
    if (b->channel != NULL) { /* to the channel all steps are one */
        must(b->channel->ops->open_step(b->channel, 0, end_m, all_groups(b)), "open_step");
    }
}

static double sum_over_ranks(double mine)
{
    double sum = 0.0;
    MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sum;
}

static void teach(bench *b)
{
    const uint64_t n_micro = (uint64_t)(N_BATCH / b->o.n_micro);
    const uint64_t end_m = n_micro * (uint64_t)(N_WARM_UP + b->o.n_steps);
    if (b->channel == NULL) {
        return;
    }
    for (uint64_t m = (uint64_t)kd_world_role_rank(b->world); m < end_m;
         m += (uint64_t)b->o.n_teachers) {
        void *message = NULL;
        must(b->channel->ops->begin_send(b->channel, m, &message), "begin_send");
        must(produce(b, m, all_groups(b), message), "kd_teacher_fill");
        must(b->channel->ops->end_send(b->channel, m, b->be->ops->event_record(b->be)), "end_send");
    }
    must(b->channel->ops->flush(b->channel), "flush");
}

static void learn(bench *b)
{
    const int n_micro = N_BATCH / b->o.n_micro;
    const kd_source source = {.user = b, .next = next_batch};
    double start_s = kd_clock_monotonic_s();

    for (int step = 0; step < N_WARM_UP + b->o.n_steps; step++) {
        const int first = step * n_micro + kd_world_role_rank(b->world);
        const kd_step_work work = {.step = (uint64_t)step,
                                   .source = &source,
                                   .first_m = (uint64_t)first,
                                   .stride = (uint64_t)b->o.n_students,
                                   .n_batches = n_micro / b->o.n_students};
        kd_step_result result;
        must(kd_trainer_step(b->trainer, &work, &b->channel, &b->reduce, &result),
             "kd_trainer_step");
        const double now_s = kd_clock_monotonic_s();
        if (step >= N_WARM_UP) {
            b->step_s[step - N_WARM_UP] = now_s - start_s;
            b->stall_s += result.stall_s;
        }
        start_s = now_s;
    }
}

static double peak_memory_mb(void)
{
    char line[256];
    double kib = 0.0;
    FILE *file = fopen("/proc/self/status", "r");
    must(file == NULL, "/proc/self/status");
    while (fgets(line, sizeof line, file) != NULL) {
        (void)sscanf(line, "VmHWM: %lf", &kib);
    }
    (void)fclose(file);
    return kib / 1024.0;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(bench *b, double rate_gflops, double memory_mb, double teacher_idle)
{
    const double taught = b->plan.n_signals > 0 ? 1.0 : 0.0;
    const double flops = taught * kd_model_config_forward_flops(&teacher_shape) +
                         3.0 * kd_model_config_forward_flops(&student_shape);
    double total_s = 0.0;
    for (int i = 0; i < b->o.n_steps; i++) {
        total_s += b->step_s[i];
    }
    qsort(b->step_s, (size_t)b->o.n_steps, sizeof *b->step_s, compare);
    const double tokens = N_BATCH * N_TOKENS / b->step_s[b->o.n_steps / 2];
    const double share = tokens * flops / 1e9 / rate_gflops;
    const double stall = b->stall_s / total_s;
    if (b->o.json) {
        (void)printf("{\"tokens_per_second\":%.1f,\"peak_memory_mb\":%.1f,"
                     "\"matrix_rate_share\":%.4f,\"matrix_rate_gflops\":%.1f,"
                     "\"flop_per_token\":%.0f,\"student_stall_share\":%.4f,"
                     "\"teacher_stall_share\":%.4f,\"steps\":%d,\"micro_batch\":%d,"
                     "\"losses\":\"%s\",\"dtype\":\"%s\",\"threads\":%d}\n",
                     tokens, memory_mb, share, rate_gflops, flops, stall, teacher_idle,
                     b->o.n_steps, b->o.n_micro, b->o.losses, kd_dtype_name(b->o.compute),
                     b->o.n_threads);
        return;
    }
    (void)printf("%.0f tokens/s (median of %d steps, micro-batch %d, losses %s)\n", tokens,
                 b->o.n_steps, b->o.n_micro, b->o.losses);
    (void)printf("%.1f %% of %.0f GFLOP/s in %s, %.1f MFLOP a token\n", 100.0 * share, rate_gflops,
                 kd_dtype_name(b->o.compute), flops / 1e6);
    (void)printf("%.0f MB at the peak, all ranks; waiting: student %.1f %%, teacher %.1f %%\n",
                 memory_mb, 100.0 * stall, 100.0 * teacher_idle);
}

static void run(bench *b)
{
    set_up(b);
    const double before = sum_over_ranks(bench_matrix_rate(b->be));
    const double start_s = kd_clock_monotonic_s();
    double idle = 0.0;
    if (b->trainer != NULL) {
        learn(b);
    } else {
        teach(b);
        idle = b->channel != NULL
                   ? (double)b->channel->stall_ns / 1e9 / (kd_clock_monotonic_s() - start_s)
                   : 1.0;
    }
    const double memory_mb = sum_over_ranks(peak_memory_mb()); /* without the matrices below */
    const double after = sum_over_ranks(bench_matrix_rate(b->be));
    idle = sum_over_ranks(idle) / (b->o.n_teachers > 0 ? b->o.n_teachers : 1);
    if (kd_world_is_leader(b->world)) {
        report(b, (before + after) / 2.0, memory_mb, idle);
    }
    kd_channel_destroy(b->channel);
}

int main(int argc, char **argv)
{
    static bench b;
    int provided = 0;
    b.o = parse(argc, argv);
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    must(kd_world_create(&b.world), "kd_world_create");
    must(kd_world_assign(b.world, b.o.n_students, 1, &b.o.n_teachers), "kd_world_assign");
    run(&b); /* models live until the process ends */
    kd_world_destroy(b.world);
    MPI_Finalize();
    return 0;
}
