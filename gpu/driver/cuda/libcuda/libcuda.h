#include <stddef.h>

// Loads libcuda.so.1 (ELLM_LIBCUDA: another file) and starts the driver. Returns 0, −1 when the library cannot be loaded, or
// cuInit's result; then message tells more.
int ellm_libcuda_open(char* message, size_t size);

// Graphs, looked up when the library is opened, since drivers of CUDA 10.0 lack them and later ones have them in other forms.
// Streams and graphs are CUDA's handles. ellm_has_graphs tells whether the others may be called; those return a CUresult.
int ellm_has_graphs(void);
int ellm_driver_version(void); // as CUDA numbers it: 10020 = 10.2; 0 = unknown
int ellm_begin_capture(void* stream);
int ellm_end_capture(void* stream, void** exec); // *exec: an executable graph, or NULL
int ellm_launch_graph(void* exec, void* stream);
int ellm_destroy_graph(void* exec);
