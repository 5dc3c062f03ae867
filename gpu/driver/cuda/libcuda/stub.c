//go:build ignore

// A libcuda.so to link with, where cgo looks at gorgonia.org/cu. Programs do not keep it (see libcuda.go).
#define F(name) int name(void) { return 0; }
#include "functions.h"
int cuInit(unsigned flags) { return (int)flags; }
