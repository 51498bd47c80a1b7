/* What libkd.so shows; as an archive it would show everything. */
#include <criterion/criterion.h>

#include <dlfcn.h>

#include "kd.h"

Test(kd, the_library_shows_nothing_but_its_header)
{
    cr_expect_not_null(dlsym(RTLD_DEFAULT, "kd_student_create"));
    cr_expect_null(dlsym(RTLD_DEFAULT, "kd_trainer_create"));
    cr_expect_null(dlsym(RTLD_DEFAULT, "kd_fail"));
    cr_expect_str_eq(kd_version(), "0.1.0");
}
