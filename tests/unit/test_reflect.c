#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "message/reflect.h"
#include "proto/control.pb-c.h"

static Kd__Job *new_job(void)
{
    return (Kd__Job *)kd_message_create(&kd__job__descriptor);
}

static const ProtobufCFieldDescriptor *field_of(const void *message, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        kd_message_field(((const ProtobufCMessage *)message)->descriptor, name);
    cr_assert(field != NULL, "%s", name);
    return field;
}

static void add_string(void *message, const char *name, const char *text)
{
    char *copy = strdup(text);
    cr_assert(kd_message_add_element(message, field_of(message, name), &copy) != NULL);
}

Test(reflect, fill_makes_every_sub_message_and_default)
{
    Kd__Job *job = new_job();
    cr_assert(eq(int, kd_message_fill(&job->base), KD_OK));
    cr_assert(job->data != NULL && job->training != NULL && job->objective->kd != NULL);
    cr_expect(job->has_seed && job->seed == 0);
    cr_expect(job->data->has_sequence_length && job->data->sequence_length == 256);
    cr_expect(job->training->has_dtype && job->training->dtype == KD__DTYPE__AUTO);
    cr_expect(eq(dbl, job->training->learning_rate, 3e-4));
    cr_expect(not(job->training->has_steps), "no default, so still absent");
    cr_expect(job->objective->kd->weight == NULL, "a bare value means something by its absence");
    kd_message_destroy(&job->base);
}

Test(reflect, fill_makes_default_strings_ones_that_are_set)
{
    Kd__Job *job = new_job();
    cr_assert(eq(int, kd_message_fill(&job->base), KD_OK));
    cr_expect(eq(str, job->data->text_field, "text"));
    cr_expect(eq(sz, kd_message_count(&job->data->base, field_of(job->data, "text_field")), 1));
    kd_message_destroy(&job->base);
}

Test(reflect, fill_keeps_what_is_set_and_reaches_list_elements)
{
    Kd__Job *job = new_job();
    ProtobufCMessage *teacher = kd_message_create(&kd__teacher__descriptor);
    cr_assert(kd_message_add_element(&job->base, field_of(job, "teachers"), &teacher) != NULL);
    add_string(teacher, "checkpoint", "/m");
    cr_assert(eq(int, kd_message_fill(&job->base), KD_OK));
    cr_expect(eq(str, job->teachers[0]->name, "teacher"));
    cr_expect(eq(str, job->teachers[0]->checkpoint, "/m"));
    kd_message_destroy(&job->base);
}

Test(reflect, fill_leaves_a_oneof_alone)
{
    Kd__Request *request = (Kd__Request *)kd_message_create(&kd__request__descriptor);
    cr_assert(eq(int, kd_message_fill(&request->base), KD_OK));
    cr_expect(eq(int, request->body_case, KD__REQUEST__BODY__NOT_SET));
    kd_message_destroy(&request->base);
}

Test(reflect, a_copy_is_equal_until_one_is_changed)
{
    Kd__Job *job = new_job();
    add_string(job, "output", "/out");
    add_string(job, "after", "1");
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    cr_assert(copy != NULL);
    cr_expect(kd_message_equal(&job->base, &copy->base));
    cr_expect(copy->output != job->output);
    add_string(copy, "after", "2");
    cr_expect(not(kd_message_equal(&job->base, &copy->base)));
    kd_message_destroy(&job->base);
    kd_message_destroy(&copy->base);
}

/* As a completed job has them: a size that follows from the ranks is no field of its own. */
Test(reflect, what_an_absent_number_is_worth_is_copied_and_cleared)
{
    Kd__Job *job = new_job();
    cr_assert(eq(int, kd_message_fill(&job->base), KD_OK));
    const ProtobufCFieldDescriptor *size = field_of(job->training, "micro_batch_size");
    cr_expect(kd_message_unset_value(&job->training->base, size) == NULL);
    job->training->micro_batch_size = 8;
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    cr_expect(eq(u32, copy->training->micro_batch_size, 8));
    cr_expect(not(copy->training->has_micro_batch_size));
    cr_expect(kd_message_equal(&job->base, &copy->base));
    const uint32_t *value = kd_message_unset_value(&copy->training->base, size);
    cr_assert(value != NULL);
    cr_expect(eq(u32, *value, 8));
    kd_message_clear(&copy->training->base, size);
    cr_expect(eq(u32, copy->training->micro_batch_size, 0));

    job->training->has_micro_batch_size = 1;
    cr_expect(kd_message_unset_value(&job->training->base, size) == NULL, "it is set");
    kd_message_destroy(&job->base);
    kd_message_destroy(&copy->base);
}

Test(reflect, equal_tells_types_apart)
{
    ProtobufCMessage *a = kd_message_create(&kd__job_list__descriptor);
    ProtobufCMessage *b = kd_message_create(&kd__event_list__descriptor);
    cr_expect(not(kd_message_equal(a, b)), "both are empty");
    kd_message_destroy(a);
    kd_message_destroy(b);
}

Test(reflect, clear_returns_a_field_to_its_default)
{
    Kd__Data *data = (Kd__Data *)kd_message_create(&kd__data__descriptor);
    const uint32_t length = 99;
    const ProtobufCFieldDescriptor *field = field_of(data, "sequence_length");
    cr_assert(kd_message_add_element(&data->base, field, &length) != NULL);
    cr_expect(data->has_sequence_length && data->sequence_length == 99);
    kd_message_clear(&data->base, field);
    cr_expect(data->sequence_length == 256 && !data->has_sequence_length);

    add_string(data, "text_field", "body");
    kd_message_clear(&data->base, field_of(data, "text_field"));
    cr_expect(eq(str, data->text_field, "text"));

    add_string(data, "files", "/a");
    add_string(data, "files", "/b");
    cr_expect(eq(sz, kd_message_count(&data->base, field_of(data, "files")), 2));
    kd_message_clear(&data->base, field_of(data, "files"));
    cr_expect(eq(sz, data->n_files, 0));
    kd_message_destroy(&data->base);
}

Test(reflect, setting_a_member_of_a_oneof_frees_the_other)
{
    Kd__Request *request = (Kd__Request *)kd_message_create(&kd__request__descriptor);
    ProtobufCMessage *submit = kd_message_create(&kd__submit_request__descriptor);
    ProtobufCMessage *show = kd_message_create(&kd__job_request__descriptor);
    cr_assert(kd_message_add_element(&request->base, field_of(request, "submit"), &submit) != NULL);
    cr_assert(kd_message_add_element(&request->base, field_of(request, "show"), &show) != NULL);
    cr_expect(eq(int, request->body_case, KD__REQUEST__BODY_SHOW));
    cr_expect(request->show == (Kd__JobRequest *)show);
    cr_expect(eq(sz, kd_message_count(&request->base, field_of(request, "submit")), 0));
    kd_message_clear(&request->base, field_of(request, "show"));
    cr_expect(eq(int, request->body_case, KD__REQUEST__BODY__NOT_SET));
    kd_message_destroy(&request->base);
}

Test(reflect, the_last_element_takes_the_place_of_another)
{
    Kd__Data *data = (Kd__Data *)kd_message_create(&kd__data__descriptor);
    add_string(data, "files", "/a");
    add_string(data, "files", "/b");
    add_string(data, "files", "/c");
    kd_message_replace_by_last(&data->base, field_of(data, "files"), 0);
    cr_assert(eq(sz, data->n_files, 2));
    cr_expect(eq(str, data->files[0], "/c"));
    cr_expect(eq(str, data->files[1], "/b"));
    kd_message_destroy(&data->base);
}

Test(reflect, the_nearest_field_is_found_or_none)
{
    cr_expect(eq(str, (char *)kd_message_nearest_field(&kd__soft_target__descriptor, "wieght"),
                 "weight"));
    cr_expect(kd_message_nearest_field(&kd__soft_target__descriptor, "zzzzzz") == NULL);
    cr_expect(kd_message_nearest_field(&kd__list_request__descriptor, "a") == NULL);
}

Test(reflect, enum_words_are_lower_case_and_unknown_ones_numbers)
{
    kd_text text = {0};
    kd_enum_add_word(&text, &kd__teacher__transport__descriptor, KD__TEACHER__TRANSPORT__HIDDEN);
    kd_text_add(&text, " ");
    kd_enum_add_word(&text, &kd__teacher__transport__descriptor, 77);
    cr_expect(eq(str, text.data, "hidden 77"));
    kd_text_release(&text);
}
