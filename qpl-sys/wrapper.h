#include "qpl/qpl.h"
