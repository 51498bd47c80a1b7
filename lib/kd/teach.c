/*
 * teach.c - where a step's target logits come from: the model that is attached, or the caller. Both
 * reach the trainer as the signals of one teacher, over a local channel.
 */
#include "base/log.h"
#include "job/job.h"
#include "kd/student.h"
#include "message/reflect.h"
#include "shape/vocabulary.h"
#include "train/device.h"
#include "train/dtype.h"

kd_logits_source kd_teaching_own(const kd_student *s)
{
    return s->distils && s->teacher != NULL ? KD_LOGITS_TEACHER : KD_LOGITS_NONE;
}

void kd_student_set_distillation(kd_student *s, bool on)
{
    if (s != NULL) {
        s->distils = on;
    }
}

bool kd_student_distils(const kd_student *s)
{
    return s != NULL && kd_teaching_own(s) == KD_LOGITS_TEACHER;
}

/* Queues micro-batch m's message: the local channel calls it. */
static kd_status produce(void *user, uint64_t m, uint64_t groups, void *message)
{
    kd_student *s = user;
    const kd_batch batch = kd_step_batch(s, m);
    const kd_teacher_part part = {kd_trainer_signals(s->trainer), 0, groups};

    if (s->logits == NULL) {
        return kd_teacher_fill(s->teacher, &batch, &part, message);
    }
    const int64_t n_vocab = kd_trainer_parameters(s->trainer)->config.vocab_size;
    const int64_t row = (int64_t)(m - s->first_m) * s->micro_size * s->n_tokens;
    const kd_signal *signal = kd_signal_plan_find(part.plan, 0, KD_SIGNAL_LOGITS, 0);
    KD_CHECK(signal != NULL);
    const kd_tensor view = kd_signal_view(signal, message, batch.n_batch * s->n_tokens);
    s->be->ops->upload(s->be, view, s->logits + row * n_vocab);
    return KD_OK;
}

static kd_teacher_view view_of(const kd_student *s, kd_logits_source from)
{
    if (from == KD_LOGITS_TEACHER) { /* then the job names it */
        const Kd__Teacher *teacher = s->job->teachers[0];
        return (kd_teacher_view){.config = kd_teacher_config(s->teacher),
                                 .transport = teacher->transport,
                                 .compute = kd_dtype_of_word(teacher->dtype),
                                 .lm_head = kd_teacher_lm_head(s->teacher)};
    }
    return (kd_teacher_view){.config = &kd_trainer_parameters(s->trainer)->config,
                             .transport = KD__TEACHER__TRANSPORT__LOGITS};
}

void kd_teaching_drop(kd_student *s)
{
    kd_channel_destroy(s->channel);
    s->channel = NULL;
    s->built = KD_LOGITS_NONE;
}

/* On whose queue messages are written. */
static kd_backend *writer_of(const kd_student *s, kd_logits_source from)
{
    return from == KD_LOGITS_TEACHER && s->teacher_be != NULL ? s->teacher_be : s->be;
}

/* Brings the trainer's teachers and the channel in line with where logits come from. */
static kd_status build(kd_student *s, kd_logits_source from)
{
    kd_channel *channel = NULL;
    kd_teacher_view view = {0};
    if (from != KD_LOGITS_NONE) {
        view = view_of(s, from);
    }
    kd_status st = kd_trainer_set_teachers(s->trainer, &view, from == KD_LOGITS_NONE ? 0 : 1);
    if (st) {
        return st;
    }
    s->built = KD_LOGITS_NONE; /* until there is a channel for it */
    const kd_signal_plan *plan = kd_trainer_signals(s->trainer);
    if (plan->n_signals > 0) {
        const kd_local_settings local = {.plan = &plan->messages[0],
                                         .n_steps = 1,
                                         .writer = writer_of(s, from),
                                         .reader = s->be,
                                         .produce = produce,
                                         .user = s};
        st = kd_channel_create_local(&local, &channel);
        if (st) {
            return st;
        }
    }
    kd_channel_destroy(s->channel);
    s->channel = channel;
    s->built = from;
    return KD_OK;
}

/* The channel moves in the next step what these losses read. */
static kd_status open_step(kd_student *s, uint64_t readers, int64_t n_batches)
{
    const kd_signal_plan *plan = kd_trainer_signals(s->trainer);
    if (s->channel == NULL) {
        return KD_OK;
    }
    return s->channel->ops->open_step(s->channel, s->n_messages,
                                      s->n_messages + (uint64_t)n_batches,
                                      kd_signal_plan_mask(plan, 0, readers));
}

/* Without a teacher no loss reads one, whatever its values are. */
static kd_status values_for(const kd_student *s, kd_logits_source from, Kd__Job **whole_out)
{
    Kd__Job *whole = NULL;
    kd_status st = kd_values_complete(s->job, from != KD_LOGITS_NONE, &whole);
    if (!st && from == KD_LOGITS_NONE) {
        st = kd_job_complete_untaught(whole->objective);
    }
    if (st) {
        kd_message_destroy((ProtobufCMessage *)whole);
        return st;
    }
    *whole_out = whole;
    return KD_OK;
}

kd_status kd_teaching_begin(kd_student *s, kd_logits_source from, int64_t n_batches)
{
    Kd__Job *whole = NULL;
    kd_status st = values_for(s, from, &whole);
    if (st) {
        return st;
    }
    st = kd_trainer_set_objective(s->trainer, whole->objective);
    if (!st) {
        kd_trainer_set_learning_rate(s->trainer, whole->training->learning_rate);
    }
    if (!st && from != KD_LOGITS_NONE && from != s->built) {
        st = build(s, from);
    }
    if (!st) {
        st = open_step(s, kd_objective_readers(whole->objective, s->n_steps), n_batches);
    }
    kd_message_destroy(&whole->base);
    return st;
}

static Kd__Resources__Device device_of(const kd_student *s)
{
    return s->be->device.kind == KD_DEVICE_CUDA ? KD__RESOURCES__DEVICE__CUDA
                                                : KD__RESOURCES__DEVICE__CPU;
}

/* A teacher of another dtype than the student's has a back end of its own, on the same device. */
static kd_status load(const kd_student *s,
                      const Kd__Teacher *from,
                      kd_backend **be_out,
                      kd_teacher **teacher_out,
                      kd_job_content *content_out)
{
    const kd_teacher_settings settings = {.max_batch = s->micro_size, .n_tokens = s->n_tokens};
    const kd_dtype dtype = kd_dtype_of_word(from->dtype);
    kd_backend *be = NULL;
    kd_teacher *teacher = NULL;
    int64_t n_vocab;
    kd_status st = KD_OK;
    const kd_device_place place = {.device = device_of(s), .n_threads = s->be->n_threads};
    const Kd__Resources__Device wish = kd_values_wish(from->resources);
    if (wish != KD__RESOURCES__DEVICE__AUTO && wish != place.device) {
        st = kd_fail(KD_ERR_INVALID,
                     "teachers.0.resources.device: found %s, expected auto or the student's: both "
                     "are of one process here",
                     wish == KD__RESOURCES__DEVICE__CUDA ? "cuda" : "cpu");
    } else if (dtype != s->be->compute) {
        st = kd_device_open(&place, dtype, &be);
    }
    if (!st) {
        st = kd_model_content("teachers.0.checkpoint", from->checkpoint, from->verify, content_out);
    }
    if (!st) {
        st = kd_teacher_load(be != NULL ? be : s->be, from->checkpoint, &settings, &teacher);
    }
    if (!st) {
        st = kd_vocab_common(&kd_trainer_parameters(s->trainer)->config, kd_teacher_config(teacher),
                             &n_vocab);
    }
    if (st) {
        kd_teacher_destroy(teacher);
        kd_backend_destroy(be);
        return st;
    }
    *be_out = be;
    *teacher_out = teacher;
    return KD_OK;
}

kd_status kd_teaching_load(kd_student *s, const Kd__Job *job)
{
    kd_backend *be = NULL;
    kd_teacher *teacher = NULL;
    kd_job_content content = {0};
    kd_status st = job->n_teachers > 0 ? load(s, job->teachers[0], &be, &teacher, &content) : KD_OK;
    if (!st) {
        st = build(s, KD_LOGITS_NONE); /* lets go of the lm_head of the one before */
    }
    if (st) {
        kd_teacher_destroy(teacher);
        kd_backend_destroy(be);
        return st;
    }
    kd_teacher_destroy(s->teacher);
    kd_backend_destroy(s->teacher_be);
    s->teacher = teacher;
    s->teacher_be = be;
    s->teacher_content = content;
    return KD_OK;
}

kd_status kd_student_attach_teacher(kd_student *student, const char *folder)
{
    kd_student *s = student;
    Kd__Job *job = NULL;
    kd_status st = KD_GIVEN(student);
    if (!st && folder != NULL && folder[0] == '\0') { /* it would be the working directory */
        st = kd_fail(KD_ERR_ARG, "found \"\", expected the folder of a teacher");
    }
    if (!st) {
        st = kd_values_with_teacher(s->job, folder, &job);
    }
    if (st) {
        return st;
    }
    st = kd_teaching_load(s, job);
    if (st) {
        kd_message_destroy(&job->base);
        return st;
    }
    kd_message_destroy(&s->job->base);
    s->job = job;
    return KD_OK;
}
