#include "wire/listener.h"
