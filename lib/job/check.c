/* Each field by its facts, then, if the job is sound, the rules between them. */
#include "message/check.h"

#include "base/log.h"
#include "base/text.h"
#include "job/job.h"
#include "job/rules.h"
#include "message/reflect.h"
#include "message/yaml.h"

/* What "name: " with the longest id takes, which the daemon gives a job that has no name. */
enum { NAME_LINE_BYTES = 32 };

/* Where the student's shape is its checkpoint's, one that is given is refused whole, not by field. */
static Kd__Job view_without_unused(const Kd__Job *job, Kd__Student *student)
{
    Kd__Job view = *job;
    *student = *job->student;
    if (student->init == KD__STUDENT__INIT__CHECKPOINT) {
        student->model = NULL;
    }
    view.student = student;
    return view;
}

/* Ranks read the job as a file, where paths are absolute and defaults are written out. */
static kd_status check_size(kd_checker *c, const Kd__Job *job)
{
    kd_text yaml = {0};
    kd_yaml_print(&yaml, &job->base);
    const size_t size = yaml.size + (job->name == NULL ? NAME_LINE_BYTES : 0);
    const kd_status st = yaml.failed ? kd_fail(KD_ERR_NOMEM, "job: no memory") : KD_OK;
    if (!st && size > KD_YAML_BYTES_MAX) {
        kd_checker_add(c, "job",
                       "found %zu bytes of YAML with its paths absolute, expected at most %u; "
                       "did you mean fewer, larger data.files?",
                       size, KD_YAML_BYTES_MAX);
    }
    kd_text_release(&yaml);
    return st;
}

static kd_status check(const Kd__Job *job, kd_checker *c, bool is_run, kd_text *mistakes)
{
    if (kd_message_has_unknown(&job->base)) {
        kd_checker_add(c, "job", "found fields that this version of the program does not know");
        c->is_unsound = true;
    }
    Kd__Student student;
    const Kd__Job view = view_without_unused(job, &student);
    kd_checker_message(c, &view.base);
    if (!c->is_unsound) {
        kd_job_check_rules(c, job, &view, is_run);
    }
    const kd_status sized = is_run && !c->is_unsound ? check_size(c, job) : KD_OK;
    const kd_status st = kd_checker_end(c, mistakes);
    return st ? st : sized;
}

kd_status kd_job_check_lengths(const Kd__Job *job)
{
    kd_checker checker = {0};
    kd_checker_lengths(&checker, &job->base);
    return kd_checker_end(&checker, NULL);
}

kd_status kd_job_check(const Kd__Job *job, kd_text *mistakes)
{
    kd_checker checker = {0};
    return check(job, &checker, true, mistakes);
}

kd_status kd_job_check_model(const Kd__Job *job, kd_text *mistakes)
{
    static const char *const of_run[] = {"output", "data.files", NULL};
    kd_checker checker = {.left_out = of_run};
    return check(job, &checker, false, mistakes);
}
