#include "wire/reflect.h"
