/* Models side by side: of different vocabularies, and in threads of their own. */
#include <criterion/criterion.h>

#include <pthread.h>
#include <string.h>

#include "tests/support/small_student.h"
#include "tests/support/temporary.h"

TestSuite(kd_models, .init = temporary_enter, .fini = temporary_leave);

/* A padded teacher's logits have columns that the student's have not. */
Test(kd_models, vocabularies_can_be_asked_for)
{
    kd_student *padded =
        small_student(DATA "student: {model: {vocab_size: 320, hidden_size: 16, " SHAPE "}}\n" F32);
    cr_assert_eq(kd_student_save(padded, temporary_path("padded")), KD_OK);
    kd_student_destroy(padded);
    kd_student *student = small_student(SMALL(2));
    cr_expect_eq(kd_student_vocab_size(student), V);
    cr_expect_eq(kd_student_teacher_vocab_size(student), 0);
    cr_assert_eq(kd_student_attach_teacher(student, "padded"), KD_OK);
    cr_expect_eq(kd_student_teacher_vocab_size(student), 320);
    kd_student_destroy(student);
    student = small_student(DATA F32 "student: {init: checkpoint, checkpoint: padded}\n");
    cr_expect_eq(kd_student_vocab_size(student), 320);
    cr_expect_eq(kd_student_vocab_size(NULL) + kd_student_teacher_vocab_size(NULL), 0);
    kd_student_destroy(student);
}

typedef struct trained {
    const char *job;
    kd_losses losses;
} trained;

static void *train_one(void *user)
{
    trained *t = user;
    kd_student *student = small_student(t->job);
    if (kd_student_attach_teacher(student, "teacher") == KD_OK) {
        t->losses = small_train(student, 30);
    }
    kd_student_destroy(student);
    return NULL;
}

/* Nothing is shared that one object would change under another. */
Test(kd_models, two_students_may_be_trained_at_once)
{
    trained alone[2] = {{.job = SMALL(2)}, {.job = SMALL(3)}}, together[2];
    pthread_t threads[2];
    (void)small_teacher();
    memcpy(together, alone, sizeof together);
    for (int i = 0; i < 2; i++) {
        (void)train_one(&alone[i]);
    }
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, train_one, &together[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_expect_gt(alone[i].losses.total, 0.0);
        cr_expect_eq(together[i].losses.total, alone[i].losses.total);
        cr_expect_eq(together[i].losses.gradient_norm, alone[i].losses.gradient_norm);
    }
}
