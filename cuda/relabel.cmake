# Labels PTX as version ISA: the kernels use nothing newer (gpu/driver/cuda/ptx_test.go), the compiler writes its own version.
file(READ ${IN} text)
string(REGEX REPLACE "\n\\.version [0-9.]+" "\n.version ${ISA}" text "${text}")
if(NOT text MATCHES "\n\\.version ${ISA}")
  message(FATAL_ERROR "${IN}: no .version line")
endif()
file(WRITE ${OUT} "${text}")
file(REMOVE ${IN})
