/* submit.c - a job file becomes a job. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/json_print.h"
#include "base/log.h"
#include "daemon/ctl/client.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"
#include "job/job.h"
#include "message/reflect.h"
#include "message/yaml.h"

/* --after, as if the file's list were longer. */
static kd_status add_after(Kd__Job *job, const ctl_options *options)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < options->n_after && st == KD_OK; i++) {
        kd_text set = {0};
        kd_text_printf(&set, "after.%zu=%s", job->n_after, options->after[i]);
        st =
            set.failed ? kd_fail(KD_ERR_NOMEM, "out of memory") : kd_yaml_set(&job->base, set.data);
        kd_text_release(&set);
    }
    return st;
}

ctl_exit ctl_exit_of_job(kd_status st)
{
    return st == KD_OK ? CTL_OK : kd_status_is_of_host(st) ? CTL_INTERNAL : CTL_INVALID;
}

/* A token of our own makes the one repetition below safe. */
static bool random_token(char token[33])
{
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return false;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        (void)snprintf(token + 2 * i, 3, "%02x", bytes[i]);
    }
    return true;
}

static void keep_status(const Kd__Reply *reply, void *user)
{
    Kd__JobStatus **status = user;
    if (reply->body_case == KD__REPLY__BODY_STATUS && *status == NULL) {
        *status = (Kd__JobStatus *)kd_message_copy(&reply->status->base);
    }
}

static ctl_exit send_job(const ctl_options *options, Kd__Job *job, Kd__JobStatus **status_out)
{
    char token[33];
    Kd__SubmitRequest submit = KD__SUBMIT_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    if (options->token == NULL && !random_token(token)) {
        (void)fputs("distillctl: no random numbers to be had\n", stderr);
        return CTL_INTERNAL;
    }
    submit.job = job;
    submit.token = options->token ? (char *)options->token : token;
    request.body_case = KD__REQUEST__BODY_SUBMIT;
    request.submit = &submit;

    ctl_client *client;
    ctl_exit result = ctl_client_open(options, &client);
    if (result != CTL_OK) {
        return result;
    }
    result = ctl_call(client, &request, keep_status, status_out);
    ctl_client_close(client);
    if (result == CTL_UNREACHABLE) { /* was it stored? the token lets us ask again */
        result = ctl_ask(options, &request, keep_status, status_out);
    }
    if (result == CTL_OK && *status_out == NULL) {
        (void)fputs("distillctl: the daemon's answer holds no job\n", stderr);
        result = CTL_INTERNAL;
    }
    return result;
}

static void print_submitted(const ctl_options *options, const Kd__JobStatus *status)
{
    if (options->json) {
        kd_text out = {0};
        kd_json_printer p = {.text = &out};
        kd_json_begin(&p, '{');
        kd_json_key(&p, "id");
        kd_json_uint(&p, status->id);
        kd_json_key(&p, "state");
        kd_json_string(&p, ctl_state_word(status->state));
        kd_json_end(&p, '}');
        puts(out.failed ? "null" : out.data);
        kd_text_release(&out);
    } else {
        printf("%" PRIu64 "\n", status->id);
    }
    (void)ctl_flush(); /* main() looks at the end */
}

ctl_exit ctl_submit(const ctl_options *options)
{
    Kd__Job *job = NULL;
    Kd__JobStatus *status = NULL;
    kd_status st = kd_job_read(options->argument, options->sets, options->n_sets, &job);
    if (st == KD_OK) {
        st = add_after(job, options);
    }
    if (st) {
        (void)fprintf(stderr, "distillctl: %s\n", kd_fault_text());
        if (job) {
            kd__job__free_unpacked(job, NULL);
        }
        return ctl_exit_of_job(st);
    }
    ctl_exit result = send_job(options, job, &status);
    kd__job__free_unpacked(job, NULL);
    if (result == CTL_OK) {
        print_submitted(options, status);
        if (options->watch) {
            result = ctl_watch_job(options, status->id);
        }
    }
    kd_message_destroy((ProtobufCMessage *)status);
    return result;
}
