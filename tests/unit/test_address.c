#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "wire/address.h"

static void be_quiet(void)
{
    kd_fault_quiet(1);
}

TestSuite(address, .init = be_quiet);

static void expect_format(const char *text, const char *formatted)
{
    kd_address address;
    char again[KD_ADDRESS_TEXT_MAX];
    cr_assert(eq(int, kd_address_parse(text, &address), KD_OK), "%s", text);
    cr_expect(eq(str, (char *)kd_address_format(&address, again), (char *)formatted));
}

static void expect_refusal(const char *text, const char *reason)
{
    kd_address address = {.port = 7};
    cr_assert(eq(int, kd_address_parse(text, &address), KD_ERR_INVALID), "%s", text);
    EXPECT_FAULT(reason);
    cr_expect(eq(u16, address.port, 7), "outputs stay untouched");
}

Test(address, what_is_parsed_is_what_is_formatted)
{
    expect_format("unix:/run/d.sock", "unix:/run/d.sock");
    expect_format("unix:here", "unix:here");
    expect_format("tcp:127.0.0.1:0", "tcp:127.0.0.1:0");
    expect_format("tcp:127.8.9.1:65535", "tcp:127.8.9.1:65535");
    expect_format("tcp:localhost:7070", "tcp:127.0.0.1:7070");
    expect_format("tcp:[::1]:7070", "tcp:[::1]:7070");
}

Test(address, unknown_scheme_is_refused)
{
    expect_refusal("http://x", "expected unix:PATH or tcp:HOST:PORT");
    expect_refusal("", "expected unix:PATH or tcp:HOST:PORT");
}

Test(address, bad_port_is_refused)
{
    expect_refusal("tcp:localhost:65536",
                   "found port \"65536\", expected a number from 0 to 65535");
    expect_refusal("tcp:localhost:-1", "found port \"-1\"");
    expect_refusal("tcp:localhost:70x", "found port \"70x\"");
    expect_refusal("tcp:localhost:", "found port \"\"");
    expect_refusal("tcp:localhost", "expected tcp:HOST:PORT");
}

Test(address, hosts_beyond_this_machine_are_refused_with_the_reason)
{
    expect_refusal("tcp:0.0.0.0:1", "TCP is neither encrypted nor authenticated");
    expect_refusal("tcp:10.0.0.1:1", "found host \"10.0.0.1\"");
    expect_refusal("tcp:example.org:1", "expected a loopback host");
    expect_refusal("tcp:[::]:1", "expected a loopback host");
    expect_refusal("tcp:127.0.0.1.a.very.long.name.that.fits.no.numeric.address:1", "loopback");
}

Test(address, socket_path_has_the_limit_of_the_kernel)
{
    char text[5 + KD_ADDRESS_PATH_MAX + 1] = "unix:";
    kd_address address;
    memset(text + 5, 'p', KD_ADDRESS_PATH_MAX);
    expect_refusal(text, "found a path of 108 bytes, expected at most 107");
    text[5 + KD_ADDRESS_PATH_MAX - 1] = '\0';
    cr_expect(eq(int, kd_address_parse(text, &address), KD_OK));
    expect_refusal("unix:", "found no path");
}
