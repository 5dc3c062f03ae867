#pragma once
#include "runtime.h"

// Runs the deliberate bugs in three allocations from base on. Returns how many of them went otherwise than expected.
int test_bugs(emu::Machine& machine, uint64_t base, bool print);
