// States of sequences: what layers without keys and values keep.
#pragma once
#include "common.cuh"

// What stands for a place in the arrays from and to of kernels: a token goes on with the state of the one before, or does not
// keep its own; the sequence begins.
static const int32_t SAME_STATE = -1;
static const int32_t EMPTY_STATE = -2;
