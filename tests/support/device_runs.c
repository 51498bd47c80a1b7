#include "tests/support/device_runs.h"

bool device_called[DEVICE_OPS];
