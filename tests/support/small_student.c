#include "tests/support/small_student.h"

#include <criterion/criterion.h>

#include "tests/support/temporary.h"

kd_student *small_student(const char *job)
{
    kd_student *student;
    cr_assert_eq(kd_student_create(job, &student), KD_OK, "%s", kd_error_text());
    return student;
}

void small_text(int32_t *tokens, int32_t *labels, int32_t seed)
{
    for (int32_t i = 0, token = seed; i < N; i++) {
        tokens[i] = token % SYMBOLS;
        token += (i * 7 + seed) % 3 == 0 ? 5 : 3;
        labels[i] = token % SYMBOLS;
    }
}

kd_losses small_train(kd_student *student, int n_steps)
{
    kd_losses losses = {0};
    for (int i = 0; i < n_steps; i++) {
        int32_t tokens[N], labels[N];
        small_text(tokens, labels, (int32_t)(kd_student_steps(student) % 5));
        cr_assert_eq(kd_student_step(student, tokens, labels, B, &losses), KD_OK, "%s",
                     kd_error_text());
    }
    return losses;
}

const char *small_teacher(void)
{
    kd_student *teacher = small_student(SMALL(1));
    (void)small_train(teacher, 60);
    cr_assert_eq(kd_student_save(teacher, temporary_path("teacher")), KD_OK);
    kd_student_destroy(teacher);
    return temporary_path("teacher");
}
