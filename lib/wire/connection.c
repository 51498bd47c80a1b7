#include "wire/connection.h"
