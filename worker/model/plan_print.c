/* plan_print.c - a plan as a table for people, and as one JSON object. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json_print.h"
#include "distill/loss.h"
#include "job/job.h"
#include "worker/model/plan.h"

static const char *transport_word(const plan *p, int teacher)
{
    return p->job->teachers[teacher]->transport == KD__TEACHER__TRANSPORT__HIDDEN ? "hidden"
                                                                                  : "logits";
}

static uint64_t micro_batches(const plan *p)
{
    return kd_job_micro_batches(p->job);
}

/* ---- the table ---- */

static void add_bytes(kd_text *text, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024.0 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024.0;
        unit++;
    }
    kd_text_printf(text, "%16" PRIu64 " B", bytes);
    if (unit > 0) {
        kd_text_printf(text, "  %8.1f %s", value, units[unit]);
    }
    kd_text_add(text, "\n");
}

/* Names have underscores for programs. */
static void add_line(kd_text *text, const char *name, uint64_t bytes)
{
    char words[PLAN_NAME_BYTES];
    (void)snprintf(words, sizeof words, "%s", name);
    for (char *c = strchr(words, '_'); c != NULL; c = strchr(c, '_')) {
        *c = ' ';
    }
    kd_text_printf(text, "    %-26s", words);
    add_bytes(text, bytes);
}

static void add_flops(kd_text *text, const char *name, double flops)
{
    if (flops > 0.0) {
        kd_text_printf(text, "    %-26s%16.3f MFLOP a token\n", name, flops / 1e6);
    }
}

static void add_work(const plan *p, const plan_role *role, kd_text *text)
{
    const plan_flops *f = &role->flops;
    if (f->forward > 0.0) {
        kd_text_add(text, "  work\n");
    }
    add_flops(text, "forward", f->forward);
    add_flops(text, "backward", f->backward);
    add_flops(text, "teachers' logits", f->teacher_logits);
    add_flops(text, "of all: the vocabulary", f->vocabulary);
    if (f->forward > 0.0) {
        kd_text_printf(text, "    %-26s%16.3f GFLOP a step\n", "all ranks",
                       plan_role_step_flops(p, role) / 1e9);
    }
}

static void add_role(const plan *p, const plan_role *role, kd_text *text)
{
    const char *dtype = kd_dtype_name(role->dtype);
    if (role->n_ranks == 0) {
        kd_text_printf(text, "%s: in each of the student's ranks", role->name);
    } else {
        kd_text_printf(text, "%s: %" PRIu64 " rank%s of %" PRIu64 " thread%s", role->name,
                       role->n_ranks, role->n_ranks == 1 ? "" : "s", role->n_threads,
                       role->n_threads == 1 ? "" : "s");
    }
    kd_text_printf(text, ", %s, %s%s%s%s, %" PRIu64 " of %" PRIu64 " micro-batches of a step%s\n",
                   role->device == KD_DEVICE_CUDA ? "cuda" : "cpu", dtype,
                   role->is_auto ? " (auto: " : "", role->is_auto ? dtype : "",
                   role->is_auto ? " here)" : "", role->n_micro_batches, micro_batches(p),
                   role->n_ranks == 1 ? "" : " each");
    if (role->n_parts > 0) {
        kd_text_add(text, "  memory of a rank\n");
    }
    for (int i = 0; i < role->n_parts; i++) {
        add_line(text, role->parts[i].name, role->parts[i].bytes);
    }
    if (role->n_parts > 0 && !role->knows_own) {
        kd_text_printf(text, "    %-26s%16s\n", "workspace of the GPU", "not known");
    }
    if (role->n_parts > 0) {
        add_line(text, role->knows_own ? "total" : "total, without it", plan_role_bytes(role));
    }
    add_work(p, role, text);
}

static void add_readers(const kd_signal_group *group, kd_text *text)
{
    const char *comma = "";
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        if ((group->readers >> i & 1) != 0) {
            kd_text_printf(text, "%s%s", comma, kd_loss_kind_at(i)->name);
            comma = ", ";
        }
    }
}

static void add_stream(const plan *p, int i, kd_text *text)
{
    const plan_stream *stream = &p->streams[i];
    const kd_message_plan *message = &p->teaching.plan.messages[i];
    if (message->n_groups == 0) {
        kd_text_add(text, "  stream: nothing, no loss reads its signals\n");
        return;
    }
    kd_text_printf(text,
                   "  stream: %s%s, %s; a token has %zu B of hidden states, %zu B of logits\n",
                   transport_word(p, i), stream->is_auto ? " (auto: the fewer bytes)" : "",
                   stream->is_local ? "within the student's ranks" : "over MPI",
                   stream->hidden_bytes, stream->logits_bytes);
    for (int g = 0; g < message->n_groups; g++) {
        kd_text_add(text, "    for ");
        add_readers(&message->groups[g], text);
        kd_text_printf(text, ": %zu B a micro-batch, %" PRIu64 " B a step\n",
                       message->groups[g].size_bytes,
                       message->groups[g].size_bytes * micro_batches(p));
    }
    add_line(text, "a micro-batch", message->message_bytes);
    add_line(text, "a step", message->message_bytes * micro_batches(p));
    kd_text_printf(text, "    %-26s%16d\n", "messages at a time", stream->n_slots);
}

static void add_data(const plan *p, kd_text *text)
{
    const Kd__Training *training = p->job->training;
    const plan_data *d = &p->data;
    kd_text_printf(text,
                   "steps: %" PRIu64 " of %" PRIu32 " sequences of %" PRIu32 " tokens, in %" PRIu64
                   " micro-batches of %" PRIu32 "\n",
                   training->steps, training->batch_size, p->job->data->sequence_length,
                   micro_batches(p), training->micro_batch_size);
    if (!d->is_packed) {
        kd_text_printf(text,
                       "data: %" PRIu64 " B of text; tokens and epochs are unknown until the first "
                       "start packs it\n",
                       d->text_bytes);
        return;
    }
    kd_text_printf(text,
                   "data: %" PRIu64 " tokens to train on, %" PRIu64
                   " held out; an epoch is %" PRIu64 " sequences, the job %.2f epochs\n",
                   d->tokens.n_train_tokens, d->tokens.n_test_tokens, d->n_epoch, plan_epochs(p));
}

void plan_print_table(const plan *p, kd_text *text)
{
    add_data(p, text);
    for (int i = 0; i < p->n_roles; i++) {
        kd_text_add(text, "\n");
        add_role(p, &p->roles[i], text);
        if (i > 0) {
            add_stream(p, i - 1, text);
        }
    }
    kd_text_add(text, "\nall ranks, on one host\n");
    add_line(text, "memory", plan_host_bytes(p));
    kd_text_add(text, "on the disk\n");
    add_line(text, "a checkpoint", p->checkpoint_bytes);
    kd_text_printf(text, "    %-26s%16" PRIu32 "\n", "checkpoints kept", p->job->checkpoint->keep);
    add_line(text, "the final model", p->model_bytes);
}

/* ---- JSON ---- */

static void put_uint(kd_json_printer *out, const char *key, uint64_t value)
{
    kd_json_key(out, key);
    kd_json_uint(out, value);
}

static void put_double(kd_json_printer *out, const char *key, double value)
{
    kd_json_key(out, key);
    kd_json_double(out, value);
}

static void put_string(kd_json_printer *out, const char *key, const char *value)
{
    kd_json_key(out, key);
    kd_json_string(out, value);
}

static void put_bool(kd_json_printer *out, const char *key, bool value)
{
    kd_json_key(out, key);
    kd_json_bool(out, value);
}

static void put_memory(const plan_role *role, kd_json_printer *out)
{
    kd_json_key(out, "memory");
    kd_json_begin(out, '{');
    for (int i = 0; i < role->n_parts; i++) {
        put_uint(out, role->parts[i].name, role->parts[i].bytes);
    }
    kd_json_end(out, '}');
    put_uint(out, "total_bytes", plan_role_bytes(role));
    put_uint(out, "held_bytes", role->usage.held_bytes);
    if (role->knows_own || role->n_parts == 0) {
        put_uint(out, "scratch_bytes", role->usage.scratch_bytes);
        put_uint(out, "products_bytes", role->usage.products_bytes);
    } else {
        kd_json_key(out, "scratch_bytes");
        kd_json_null(out);
        kd_json_key(out, "products_bytes");
        kd_json_null(out);
    }
}

static void put_work(const plan *p, const plan_role *role, kd_json_printer *out)
{
    kd_json_key(out, "flops");
    kd_json_begin(out, '{');
    put_double(out, "forward_per_token", role->flops.forward);
    put_double(out, "backward_per_token", role->flops.backward);
    put_double(out, "teacher_logits_per_token", role->flops.teacher_logits);
    put_double(out, "vocabulary_per_token", role->flops.vocabulary);
    put_double(out, "per_step", plan_role_step_flops(p, role));
    kd_json_end(out, '}');
}

static void put_group(const plan *p, const kd_signal_group *group, kd_json_printer *out)
{
    kd_json_begin(out, '{');
    kd_json_key(out, "losses");
    kd_json_begin(out, '[');
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        if ((group->readers >> i & 1) != 0) {
            kd_json_string(out, kd_loss_kind_at(i)->name);
        }
    }
    kd_json_end(out, ']');
    put_uint(out, "micro_batch_bytes", group->size_bytes);
    put_uint(out, "step_bytes", group->size_bytes * micro_batches(p));
    kd_json_end(out, '}');
}

static void put_stream(const plan *p, int i, kd_json_printer *out)
{
    const plan_stream *stream = &p->streams[i];
    const kd_message_plan *message = &p->teaching.plan.messages[i];
    kd_json_key(out, "stream");
    kd_json_begin(out, '{');
    put_string(out, "transport", transport_word(p, i));
    put_bool(out, "transport_is_auto", stream->is_auto);
    put_uint(out, "hidden_bytes_per_token", stream->hidden_bytes);
    put_uint(out, "logits_bytes_per_token", stream->logits_bytes);
    put_bool(out, "is_local", stream->is_local);
    put_uint(out, "slots", (uint64_t)stream->n_slots);
    put_uint(out, "micro_batch_bytes", message->message_bytes);
    put_uint(out, "step_bytes", message->message_bytes * micro_batches(p));
    kd_json_key(out, "groups");
    kd_json_begin(out, '[');
    for (int g = 0; g < message->n_groups; g++) {
        put_group(p, &message->groups[g], out);
    }
    kd_json_end(out, ']');
    kd_json_end(out, '}');
}

static void put_role(const plan *p, int i, kd_json_printer *out)
{
    const plan_role *role = &p->roles[i];
    kd_json_begin(out, '{');
    put_string(out, "role", role->name);
    put_uint(out, "ranks", role->n_ranks);
    put_uint(out, "threads", role->n_threads);
    put_string(out, "device", role->device == KD_DEVICE_CUDA ? "cuda" : "cpu");
    put_string(out, "dtype", kd_dtype_name(role->dtype));
    put_bool(out, "dtype_is_auto", role->is_auto);
    put_uint(out, "micro_batches", role->n_micro_batches);
    put_memory(role, out);
    put_work(p, role, out);
    if (i > 0) {
        put_stream(p, i - 1, out);
    }
    kd_json_end(out, '}');
}

static void put_data(const plan *p, kd_json_printer *out)
{
    const plan_data *d = &p->data;
    kd_json_key(out, "data");
    kd_json_begin(out, '{');
    put_uint(out, "text_bytes", d->text_bytes);
    if (d->is_packed) {
        put_uint(out, "train_tokens", d->tokens.n_train_tokens);
        put_uint(out, "held_out_tokens", d->tokens.n_test_tokens);
        put_uint(out, "epoch_sequences", d->n_epoch);
        put_double(out, "epochs", plan_epochs(p));
    }
    kd_json_end(out, '}');
}

void plan_print_json(const plan *p, kd_text *text)
{
    kd_json_printer out = {.text = text};
    kd_json_begin(&out, '{');
    put_uint(&out, "steps", p->job->training->steps);
    put_uint(&out, "step_tokens", plan_step_tokens(p));
    put_uint(&out, "step_micro_batches", micro_batches(p));
    put_data(p, &out);
    kd_json_key(&out, "roles");
    kd_json_begin(&out, '[');
    for (int i = 0; i < p->n_roles; i++) {
        put_role(p, i, &out);
    }
    kd_json_end(&out, ']');
    put_uint(&out, "host_bytes", plan_host_bytes(p));
    put_uint(&out, "checkpoint_bytes", p->checkpoint_bytes);
    put_uint(&out, "checkpoints_kept", p->job->checkpoint->keep);
    put_uint(&out, "model_bytes", p->model_bytes);
    kd_json_end(&out, '}');
}
