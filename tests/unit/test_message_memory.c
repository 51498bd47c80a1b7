/*
 * Fails every allocation in turn, by the linker's --wrap, below reading, setting, filling and
 * printing a job. Each must end in KD_ERR_NOMEM, or well where only a hint was lost; the address
 * sanitizer sees what leaks.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "job/hash.h"
#include "job/job.h"
#include "message/reflect.h"
#include "message/yaml.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);

static long until_failure = -1; /* allocations that succeed first; negative: all do */
static bool has_failed;

static bool fails_now(void)
{
    if (until_failure < 0 || until_failure-- > 0) {
        return false;
    }
    has_failed = true;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails_now() ? NULL : __real_realloc(old, size);
}

char *__wrap_strdup(const char *text)
{
    return fails_now() ? NULL : __real_strdup(text);
}

static const char text[] = "output: out\n"
                           "after: ['1', '2']\n"
                           "data: {files: [a.txt]}\n"
                           "student: {model: {hidden_size: 64}}\n"
                           "teachers: [{checkpoint: m}]\n"
                           "objective: {kd: {weight: {points: [{step: 1, value: 2}]}}}\n";

/* Every step that a submitted job goes through before it is stored. */
static kd_status prepare(void)
{
    static const char *const sets[] = {"training.steps=5", "data.files.1=b.txt"};
    Kd__Job *job = NULL;
    kd_text canonical = {0};
    kd_status st = kd_job_parse(text, sizeof text - 1, "job.yaml", sets, 2, &job);
    if (st) {
        cr_expect(job == NULL);
        return st;
    }
    st = kd_job_resolve_paths(job, "/base");
    if (!st) {
        st = kd_job_complete(job);
    }
    if (!st) {
        st = kd_job_canonical(job, NULL, 0, &canonical);
    }
    kd_text_release(&canonical);
    kd_message_destroy(&job->base);
    return st;
}

Test(wire_memory, every_failed_allocation_is_told_and_nothing_leaks)
{
    kd_fault_quiet(1);
    long n = 0, n_told = 0;
    do {
        has_failed = false;
        until_failure = n++;
        kd_status st = prepare();
        until_failure = -1;
        cr_expect(st == KD_OK || (has_failed && st == KD_ERR_NOMEM), "allocation %ld: %s", n,
                  kd_fault_text());
        n_told += st == KD_ERR_NOMEM;
    } while (has_failed && n < 10000);
    cr_expect(gt(long, n_told, 30));
}

Test(wire_memory, a_mistake_is_told_even_without_memory_for_its_words)
{
    kd_fault_quiet(1);
    long n = 0;
    do {
        ProtobufCMessage *message = NULL;
        has_failed = false;
        until_failure = n++;
        kd_status st = kd_yaml_parse("data: {fiels: 1}", 16, "j", &kd__job__descriptor, &message);
        until_failure = -1;
        cr_expect(st == KD_ERR_INVALID || (has_failed && st == KD_ERR_NOMEM));
        cr_expect(message == NULL && *kd_fault_text() != '\0');
    } while (has_failed && n < 10000);
}
