#include <stddef.h>

// Loads libcuda.so.1 and starts the driver. Returns 0, −1 when the library cannot be loaded, or cuInit's
// result; then message tells more.
int ellm_libcuda_open(char* message, size_t size);
