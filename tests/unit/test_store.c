#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/state_folder.h"
#include "daemon/store.h"

static char folder[64];
static uv_loop_t loop;
static store *s;
static int n_done, n_refused, n_failed;

static void on_failed(void *context)
{
    (void)context;
    n_failed++;
}

static void on_done(void *context, kd_status st)
{
    (void)context;
    n_done++;
    n_refused += st != KD_OK;
}

static void set_up(void)
{
    kd_fault_quiet(1);
    strcpy(folder, "/tmp/kd-store-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
    cr_assert(eq(int, uv_loop_init(&loop), 0));
    n_done = n_refused = n_failed = 0;
    s = NULL;
}

static void open_store(void)
{
    cr_assert(eq(int, store_open(&loop, folder, on_failed, NULL, &s), KD_OK), "%s",
              kd_fault_text());
}

static void close_store(void)
{
    store_close(s);
    s = NULL;
    (void)uv_run(&loop, UV_RUN_DEFAULT);
}

static void tear_down(void)
{
    close_store();
    cr_expect(eq(int, uv_loop_close(&loop), 0));
    cr_expect(eq(int, kd_folder_remove(folder), KD_OK));
}

TestSuite(store, .init = set_up, .fini = tear_down);

static void wait_for(int n)
{
    while (n_done < n) {
        (void)uv_run(&loop, UV_RUN_ONCE);
    }
}

static store_job row_of(uint64_t id, const char *token)
{
    return (store_job){.job = {.id = id, .state = JOB_QUEUED, .max_restarts = 3},
                       .token = token,
                       .spec = (const uint8_t *)"spec",
                       .spec_bytes = 4,
                       .name = "name",
                       .output = "/out",
                       .steps = 100,
                       .reason = "",
                       .submitted_at = 12.5,
                       .test_loss = (double)NAN,
                       .test_accuracy = (double)NAN};
}

static store_event event_of(uint64_t seq, uint64_t job_id, const char *text)
{
    return (store_event){.seq = seq,
                         .job_id = job_id,
                         .time = 1.0,
                         .kind = "submitted",
                         .text = text,
                         .state = JOB_QUEUED};
}

static void insert(uint64_t id, const char *token)
{
    const store_job row = row_of(id, token);
    const store_event event = event_of(id, id, "hello");
    cr_assert(eq(int, store_insert_job(s, &row, &event, on_done, NULL), KD_OK));
}

typedef struct seen {
    size_t n;
    store_job last;
    char token[64], reason[64], name[64];
    uint8_t spec[64], last_step[64];
} seen;

static kd_status see(void *context, const store_job *row)
{
    seen *to = context;
    to->n++;
    to->last = *row;
    (void)snprintf(to->token, sizeof to->token, "%s", row->token == NULL ? "-" : row->token);
    (void)snprintf(to->reason, sizeof to->reason, "%s", row->reason);
    (void)snprintf(to->name, sizeof to->name, "%s", row->name);
    memcpy(to->spec, row->spec, row->spec_bytes);
    if (row->last_step_bytes > 0) {
        memcpy(to->last_step, row->last_step, row->last_step_bytes);
    }
    return KD_OK;
}

static uint64_t load(seen *to)
{
    uint64_t last_seq = 77;
    memset(to, 0, sizeof *to);
    cr_assert(eq(int, store_load(s, see, to, &last_seq), KD_OK), "%s", kd_fault_text());
    return last_seq;
}

Test(store, a_new_one_is_empty)
{
    seen found;
    open_store();
    cr_expect(eq(u64, load(&found), 0));
    cr_expect(eq(sz, found.n, 0));
}

Test(store, a_job_comes_back_as_it_was_stored)
{
    seen found;
    open_store();
    insert(1, NULL);
    insert(2, "token");
    wait_for(2);
    close_store();
    open_store();
    cr_expect(eq(u64, load(&found), 2));
    cr_expect(eq(sz, found.n, 2));
    cr_expect(eq(u64, found.last.job.id, 2));
    cr_expect(eq(str, found.token, "token"));
    cr_expect(eq(str, found.name, "name"));
    cr_expect(eq(u64, found.last.steps, 100));
    cr_expect(eq(u32, found.last.job.max_restarts, 3));
    cr_expect(eq(dbl, found.last.submitted_at, 12.5));
    cr_expect(isnan(found.last.test_loss));
    cr_expect(eq(int, memcmp(found.spec, "spec", 4), 0));
}

Test(store, a_change_replaces_what_changes_and_keeps_the_rest)
{
    seen found;
    open_store();
    insert(1, "token");
    store_job row = row_of(1, NULL);
    row.job.state = JOB_FAILED;
    row.job.attempts = 4;
    row.job.failures = 3;
    row.reason = "why";
    row.test_loss = 1.25;
    row.last_step = (const uint8_t *)"last";
    row.last_step_bytes = 4;
    memset(row.secret, 9, sizeof row.secret);
    cr_assert(eq(int, store_update_job(s, &row, NULL, on_done, NULL), KD_OK));
    wait_for(2);
    close_store();
    open_store();
    (void)load(&found);
    cr_expect(eq(int, (int)found.last.job.state, JOB_FAILED));
    cr_expect(eq(u32, found.last.job.attempts, 4));
    cr_expect(eq(u32, found.last.job.failures, 3));
    cr_expect(eq(str, found.reason, "why"));
    cr_expect(eq(str, found.token, "token"));
    cr_expect(eq(dbl, found.last.test_loss, 1.25));
    cr_expect(eq(int, memcmp(found.last_step, "last", 4), 0));
    cr_expect(eq(int, found.last.secret[31], 9));
}

/* A child stores, answers through its exit code once the callback ran, and is killed. */
Test(store, what_was_acknowledged_outlives_a_killed_process)
{
    const pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t own;
        (void)uv_loop_init(&own);
        if (store_open(&own, folder, on_failed, NULL, &s)) {
            _exit(1);
        }
        for (uint64_t id = 1; id <= 500; id++) {
            const store_job row = row_of(id, NULL);
            const store_event event = event_of(id, id, "hello");
            if (store_insert_job(s, &row, &event, on_done, NULL)) {
                _exit(1);
            }
        }
        while (n_done < 500) {
            (void)uv_run(&own, UV_RUN_ONCE);
        }
        (void)kill(getpid(), SIGKILL);
    }
    int status;
    cr_assert(eq(int, waitpid(pid, &status, 0), pid));
    cr_assert(eq(int, WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGKILL));
    seen found;
    open_store();
    cr_expect(eq(u64, load(&found), 500));
    cr_expect(eq(sz, found.n, 500));
}

Test(store, callbacks_come_in_order_and_after_the_call)
{
    open_store();
    insert(1, NULL);
    cr_expect(eq(int, n_done, 0));
    cr_assert(eq(int, store_barrier(s, on_done, NULL), KD_OK));
    wait_for(2);
    cr_expect(eq(int, n_refused, 0));
}

Test(store, closing_commits_and_answers_what_is_queued)
{
    seen found;
    open_store();
    for (uint64_t id = 1; id <= 100; id++) {
        insert(id, NULL);
    }
    close_store();
    cr_expect(eq(int, n_done, 100));
    open_store();
    (void)load(&found);
    cr_expect(eq(sz, found.n, 100));
}

/* The daemon answers a repeated token itself; should it not, the store refuses and the daemon ends. */
Test(store, a_token_is_stored_once)
{
    seen found;
    open_store();
    insert(1, "same");
    wait_for(1);
    insert(2, "same");
    wait_for(2);
    cr_expect(eq(int, n_refused, 1));
    cr_expect(eq(int, n_failed, 1));
    close_store();
    open_store();
    (void)load(&found);
    cr_expect(eq(sz, found.n, 1));
}

Test(store, nothing_is_written_after_a_failed_commit)
{
    seen found;
    open_store();
    insert(1, NULL);
    wait_for(1);
    insert(1, NULL); /* the same id: the commit fails */
    insert(2, NULL);
    wait_for(3);
    insert(3, NULL);
    wait_for(4);
    cr_expect(ge(int, n_refused, 2));
    cr_expect(eq(int, n_failed, 1));
    close_store();
    open_store();
    (void)load(&found);
    cr_expect(le(sz, found.n, 2)); /* 2 may have shared a commit of its own before the fault */
    cr_expect(le(u64, found.last.job.id, 2));
}

typedef struct page {
    size_t n;
    uint64_t first, last;
    char text[64];
} page;

static void on_events(void *context, kd_status st, const store_event *events, size_t n)
{
    page *to = context;
    cr_assert(eq(int, st, KD_OK));
    to->n = n;
    if (n > 0) {
        to->first = events[0].seq;
        to->last = events[n - 1].seq;
        (void)snprintf(to->text, sizeof to->text, "%s %s", events[0].kind, events[0].text);
    }
    n_done++;
}

Test(store, events_are_read_by_job_in_pages)
{
    page found = {0};
    open_store();
    for (uint64_t seq = 1; seq <= 20; seq++) {
        const store_event event = event_of(seq, 1 + seq % 2, "text");
        const store_job row = row_of(event.job_id, NULL);
        cr_assert(eq(int, store_update_job(s, &row, &event, NULL, NULL), KD_OK));
    }
    cr_assert(eq(int, store_read_events(s, 2, 5, 4, on_events, &found), KD_OK));
    wait_for(1);
    cr_expect(eq(sz, found.n, 4));
    cr_expect(eq(u64, found.first, 7));
    cr_expect(eq(u64, found.last, 13));
    cr_expect(eq(str, found.text, "submitted text"));
}

static void on_steps(void *context, kd_status st, const store_step *steps, size_t n)
{
    page *to = context;
    cr_assert(eq(int, st, KD_OK));
    to->n = n;
    if (n > 0) {
        to->first = steps[0].step;
        to->last = steps[n - 1].step;
        (void)snprintf(to->text, sizeof to->text, "%.*s", (int)steps[n - 1].n_bytes,
                       (const char *)steps[n - 1].bytes);
    }
    n_done++;
}

static void put_step(uint64_t step, const char *text)
{
    const store_step row = {.step = step, .bytes = (const uint8_t *)text, .n_bytes = strlen(text)};
    cr_assert(eq(int, store_put_step(s, 1, &row), KD_OK));
}

Test(store, a_step_that_is_done_again_replaces_the_first)
{
    page found = {0};
    open_store();
    put_step(1, "one");
    put_step(2, "two");
    put_step(3, "three");
    put_step(3, "three again");
    cr_assert(eq(int, store_read_steps(s, 1, 2, 100, on_steps, &found), KD_OK));
    wait_for(1);
    cr_expect(eq(sz, found.n, 2));
    cr_expect(eq(u64, found.first, 2));
    cr_expect(eq(str, found.text, "three again"));
}

Test(store, a_running_job_is_loaded_with_its_last_step)
{
    seen found;
    store_job row = row_of(1, NULL);
    const store_event event = event_of(1, 1, "");
    row.job.state = JOB_RUNNING;
    open_store();
    cr_assert(eq(int, store_insert_job(s, &row, &event, on_done, NULL), KD_OK));
    put_step(41, "step 41");
    put_step(42, "step 42");
    close_store();
    open_store();
    (void)load(&found);
    cr_expect(eq(u64, found.last.step, 42));
    cr_expect(eq(int, memcmp(found.last_step, "step 42", 7), 0));
}

static void write_file(const char *name, const char *text)
{
    char *path = kd_path_join(folder, name);
    cr_assert(eq(int, kd_file_replace(path, text, strlen(text)), KD_OK));
    free(path);
}

Test(store, a_file_that_is_no_database_is_refused_by_name)
{
    write_file("jobs.db",
               "this is a text file and nothing that SQLite ever wrote, however long it is");
    cr_expect(eq(int, store_open(&loop, folder, on_failed, NULL, &s), KD_ERR_PROTO));
    cr_expect(ne(ptr, strstr(kd_fault_text(), "jobs.db"), NULL));
}

Test(store, a_newer_schema_is_refused_with_both_versions)
{
    char command[256];
    open_store();
    close_store();
    char *path = kd_path_join(folder, "jobs.db");
    /* The user version is the big-endian word at byte 60 of the file's header. */
    (void)snprintf(command, sizeof command,
                   "printf '\\000\\000\\000\\007' | dd of=%s bs=1 seek=60 conv=notrunc 2>/dev/null",
                   path);
    cr_assert(eq(int, system(command), 0));
    free(path);
    cr_expect(eq(int, store_open(&loop, folder, on_failed, NULL, &s), KD_ERR_INVALID));
    cr_expect(ne(ptr, strstr(kd_fault_text(), "found schema version 7, expected at most 1"), NULL));
}

Test(store, a_folder_that_cannot_be_written_is_refused)
{
    char missing[96];
    (void)snprintf(missing, sizeof missing, "%s/nothing/here", folder);
    cr_expect(eq(int, store_open(&loop, missing, on_failed, NULL, &s), KD_ERR_IO));
    cr_expect(ne(ptr, strstr(kd_fault_text(), missing), NULL));
}

Test(store, a_second_lock_names_the_first_holder)
{
    char *path;
    char expected[64];
    int first, second;
    struct stat status;
    char state[96];
    (void)snprintf(state, sizeof state, "%s/a/state", folder);
    cr_assert(eq(int, state_folder_open(state, &path, &first), KD_OK));
    free(path);
    cr_assert(eq(int, stat(state, &status), 0));
    cr_expect(eq(u32, status.st_mode & 0777, 0700));
    cr_expect(eq(int, state_folder_open(state, &path, &second), KD_ERR_STATE));
    (void)snprintf(expected, sizeof expected, "process %d", (int)getpid());
    cr_expect(ne(ptr, strstr(kd_fault_text(), expected), NULL));
    (void)close(first);
    cr_assert(eq(int, state_folder_open(state, &path, &second), KD_OK));
    free(path);
    (void)close(second);
}
