#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/config.h"
#include "message/reflect.h"

static char path[] = "/tmp/kd-config-XXXXXX";
static Kd__DaemonConfig *config;

static void set_up(void)
{
    kd_fault_quiet(1);
    const int fd = mkstemp(path);
    cr_assert(ge(int, fd, 0));
    (void)close(fd);
}

static void tear_down(void)
{
    (void)unlink(path);
    if (config != NULL) {
        kd_message_destroy(&config->base);
    }
}

TestSuite(daemon_config, .init = set_up, .fini = tear_down);

static kd_status parse(const char *const *words, options *o)
{
    char *argv[16] = {"distilld"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        argv[argc] = (char *)words[argc - 1];
    }
    return options_parse(argc, argv, o);
}

static kd_status load(const char *yaml, const options *over)
{
    options o = over == NULL ? (options){.state = "/s"} : *over;
    cr_assert(eq(int, kd_file_replace(path, yaml, strlen(yaml)), KD_OK));
    o.config_file = path;
    return config_load(&o, "/s", &config);
}

static void expect_fault(const char *text)
{
    cr_expect(ne(ptr, strstr(kd_fault_text(), text), NULL), "\"%s\", expected \"%s\"",
              kd_fault_text(), text);
}

Test(daemon_config, options_are_read)
{
    options o;
    const char *const words[] = {
        "--state",  "/s", "--listen", "unix:/a", "--slots", "3", "--listen=tcp:127.0.0.1:1",
        "--worker", "/w", NULL};
    cr_assert(eq(int, parse(words, &o), KD_OK));
    cr_expect(eq(str, (char *)o.state, "/s"));
    cr_expect(eq(sz, o.n_listen, 2));
    cr_expect(eq(str, (char *)o.listen[1], "tcp:127.0.0.1:1"));
    cr_expect(eq(u32, o.slots, 3));
    cr_expect(eq(str, (char *)o.worker, "/w"));
}

Test(daemon_config, wrong_options_are_named)
{
    options o = {.slots = 99};

    const struct {
        const char *words[5];
        const char *fault;
    } wrong[] = {
        {{NULL}, "--state: missing"},
        {{"--state", NULL}, "--state: expected a value"},
        {{"--state", "/s", "--slotz", "1", NULL},
         "--slotz: no such option; did you mean \"--slots\"?"},
        {{"--state", "/s", "--help=now", NULL}, "--help=now: expected no value"},
        {{"--state", "/s", "--log-level", "loud", NULL}, "--log-level: found \"loud\", expected"},
        {{"--state", "/s", "--slots", "0", NULL}, "--slots: found \"0\""},
        {{"--state", "/s", "--slots", "-1", NULL}, "--slots: found \"-1\""},
        {{"--state", "/s", "--slots", "2x", NULL}, "--slots: found \"2x\""},
        {{"--state", "/s", "extra", NULL}, "found \"extra\""},
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect(eq(int, parse(wrong[i].words, &o), KD_ERR_ARG));
        expect_fault(wrong[i].fault);
        cr_expect(eq(u32, o.slots, 99));
    }
}

Test(daemon_config, an_empty_file_means_every_default)
{
    cr_assert(eq(int, load("", NULL), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(sz, config->n_listen, 1));
    cr_expect(eq(str, config->listen[0], "unix:/s/distilld.sock"));
    cr_expect(ge(u32, config->slots, 1));
    cr_expect(eq(u32, config->heartbeat_ms, 2000));
    cr_expect(eq(u32, config->stop_grace_seconds, 30));
    cr_expect(eq(int, config->hold_queue, 0));
}

Test(daemon_config, the_command_line_lies_over_the_file)
{
    const options over = {.state = "/s", .slots = 5, .listen = {"unix:/b"}, .n_listen = 1};
    cr_assert(eq(int, load("slots: 3\nlisten: [\"unix:/a\", \"unix:/c\"]", &over), KD_OK));
    cr_expect(eq(u32, config->slots, 5));
    cr_expect(eq(sz, config->n_listen, 1));
    cr_expect(eq(str, config->listen[0], "unix:/b"));
}

Test(daemon_config, mistakes_in_the_file_are_named)
{
    cr_expect(eq(int, load("slotz: 3", NULL), KD_ERR_INVALID));
    expect_fault("did you mean \"slots\"");
    cr_expect(eq(int, load("slots: 0", NULL), KD_ERR_INVALID));
    expect_fault("slots: found 0, expected 1 to");
    cr_expect(eq(int, load("heartbeat_ms: 1", NULL), KD_ERR_INVALID));
    expect_fault("heartbeat_ms: found 1");
    cr_expect(eq(int, load("heartbeat_ms: 5000\nrank_silence_ms: 5000", NULL), KD_ERR_INVALID));
    expect_fault("rank_silence_ms: found 5000, expected more than heartbeat_ms (5000)");
    cr_expect(eq(ptr, config, NULL));
}
