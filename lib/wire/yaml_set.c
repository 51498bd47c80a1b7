#include "wire/yaml.h"
