/* Devices that failed: which are avoided, and who takes which of those that are left. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include "daemon/devices.h"

Test(devices, each_is_avoided_once)
{
    static devices d;
    cr_expect(devices_avoid(&d, "aa", "one, number 0 on a"));
    cr_expect(not(devices_avoid(&d, "aa", "one, number 3 on b")));
    cr_expect(devices_avoid(&d, "bb", "two"));
    cr_expect(eq(sz, d.n_avoided, 2));
    cr_expect(eq(str, d.avoided[0].name, "one, number 0 on a"));
    cr_expect(eq(str, d.avoided[1].identity, "bb"));
}

Test(devices, what_no_rank_could_find_is_not_avoided)
{
    static devices d;
    char identity[DEVICE_IDENTITY_BYTES + 1];
    memset(identity, 'a', sizeof identity);
    identity[DEVICE_IDENTITY_BYTES] = '\0';
    cr_expect(not(devices_avoid(&d, "", "unknown")));
    cr_expect(not(devices_avoid(&d, identity, "too long")));
    cr_expect(eq(sz, d.n_avoided, 0));
}

Test(devices, a_full_list_takes_no_more)
{
    static devices d;
    char identity[16];
    for (int i = 0; i < DEVICES_AVOIDED_MAX; i++) {
        (void)snprintf(identity, sizeof identity, "%d", i);
        cr_expect(devices_avoid(&d, identity, identity));
    }
    cr_expect(not(devices_avoid(&d, "more", "more")));
    cr_expect(eq(sz, d.n_avoided, DEVICES_AVOIDED_MAX));
    cr_expect(eq(str, d.avoided[0].identity, "0"));
}
