#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "message/fields.h"
#include "message/reflect.h"
#include "proto/control.pb-c.h"
#include "proto/daemon.pb-c.h"
#include "proto/job.pb-c.h"

/* Of a field and, if it is a message, of all below. */
static void expect_facts(const ProtobufCMessageDescriptor *type, size_t *n)
{
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const kd_field_facts *facts = kd_field_facts_of(type, field);
        cr_assert(facts != NULL, "%s.%s", type->name, field->name);
        cr_expect(facts->meaning[0] != '\0', "%s.%s", type->name, field->name);
        *n += 1;
        if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            expect_facts(field->descriptor, n);
        }
    }
}

Test(fields, every_field_of_a_job_and_of_the_daemon_has_facts)
{
    size_t n = 0;
    expect_facts(&kd__job__descriptor, &n);
    expect_facts(&kd__daemon_config__descriptor, &n);
    cr_expect(n >= kd_n_fields, "messages that stand twice are counted twice");
}

Test(fields, facts_are_those_of_the_comment)
{
    const kd_field_facts *ratio = kd_field_facts_named("kd.Training", "final_learning_rate_ratio");
    cr_assert(ratio != NULL && ratio->has_range);
    cr_expect(eq(dbl, ratio->range.least, 0.0));
    cr_expect(eq(dbl, ratio->range.most, 1.0));
    const kd_field_facts *temperature = kd_field_facts_named("kd.SoftTarget", "temperature");
    cr_assert(temperature != NULL && temperature->has_range);
    cr_expect(eq(uint, temperature->flags, KD_FIELD_LIVE));
    cr_expect(isinf(temperature->range.most));
    const kd_field_facts *files = kd_field_facts_named("kd.Data", "files");
    cr_expect(eq(uint, files->flags, KD_FIELD_REQUIRED | KD_FIELD_PATH));
    const kd_field_facts *heads = kd_field_facts_named("kd.Model", "num_kv_heads");
    cr_expect(eq(str, (char *)heads->computed_default, "num_heads"));
}

Test(fields, words_have_meanings_and_what_is_not_there_has_none)
{
    cr_expect(eq(str, (char *)kd_word_meaning(&kd__schedule__kind__descriptor, "LINEAR"),
                 "straight lines between points"));
    cr_expect(kd_word_meaning(&kd__schedule__kind__descriptor, "QUADRATIC") == NULL);
    cr_expect(kd_word_meaning(&kd__training__decay__descriptor, "COSINE") == NULL);
    cr_expect(kd_field_facts_named("kd.Training", "stpes") == NULL);
    cr_expect(kd_field_facts_of(&kd__hello__descriptor, &kd__hello__descriptor.fields[0]) == NULL);
}

Test(fields, a_range_has_ends_that_may_be_open_and_holds_finite_numbers_alone)
{
    const kd_range share = {0.0, 1.0, true, false}, any = {-INFINITY, INFINITY, true, true};
    cr_expect(not(kd_range_holds(&share, 0.0)));
    cr_expect(kd_range_holds(&share, 1e-300));
    cr_expect(kd_range_holds(&share, 1.0));
    cr_expect(not(kd_range_holds(&share, 1.0000001)));
    cr_expect(not(kd_range_holds(&share, (double)NAN)));
    cr_expect(kd_range_holds(&any, -1e300));
    cr_expect(not(kd_range_holds(&any, (double)INFINITY)));

    kd_text text = {0};
    kd_range_add(&text, &share);
    kd_range_add(&text, &any);
    kd_range_add(&text, &(kd_range){1.0, 1e12, false, false});
    cr_expect(eq(str, text.data, "(0..1](..)[1..1000000000000]"));
    kd_text_release(&text);
}
