/* fault.h - for tests that make something fail: the fault's text names what they expect it to. */
#ifndef KD_TESTS_FAULT_H
#define KD_TESTS_FAULT_H

#include <criterion/criterion.h>
#include <string.h>

#include "base/log.h"

#define EXPECT_FAULT(part)                                                                         \
    cr_expect(strstr(kd_fault_text(), (part)) != NULL, "'%s' not in '%s'", (part), kd_fault_text())

#endif
