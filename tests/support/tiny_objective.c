#include "tests/support/tiny_objective.h"

static Kd__Schedule constant(double value)
{
    Kd__Schedule s = KD__SCHEDULE__INIT;
    s.has_value = 1;
    s.value = value;
    return s;
}

void tiny_objective_init(tiny_objective *o, double kd, double hard, double temperature)
{
    kd__objective__init(&o->message);
    kd__soft_target__init(&o->kd);
    kd__hard_target__init(&o->hard);
    kd__balance__init(&o->balance);
    kd__router_z__init(&o->z);
    o->kd_weight = constant(kd);
    o->temperature = constant(temperature);
    o->hard_weight = constant(hard);
    o->balance_weight = o->z_weight = constant(0.0);
    o->kd.weight = &o->kd_weight;
    o->kd.temperature = &o->temperature;
    o->hard.weight = &o->hard_weight;
    o->balance.weight = &o->balance_weight;
    o->z.weight = &o->z_weight;
    o->message.kd = &o->kd;
    o->message.hard = &o->hard;
    o->message.balance = &o->balance;
    o->message.z = &o->z;
}

Kd__Schedule tiny_schedule(tiny_points *room,
                           Kd__Schedule__Kind kind,
                           uint64_t first_step,
                           double first,
                           uint64_t second_step,
                           double second)
{
    const uint64_t steps[2] = {first_step, second_step};
    const double values[2] = {first, second};
    Kd__Schedule s = KD__SCHEDULE__INIT;
    for (int i = 0; i < 2; i++) {
        kd__schedule__point__init(&room->points[i]);
        room->points[i].has_step = room->points[i].has_value = 1;
        room->points[i].step = steps[i];
        room->points[i].value = values[i];
        room->list[i] = &room->points[i];
    }
    s.has_kind = 1;
    s.kind = kind;
    s.n_points = 2;
    s.points = room->list;
    return s;
}
