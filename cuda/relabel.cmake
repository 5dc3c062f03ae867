# Labels PTX as ISA 6.5: the kernels use nothing newer, the compiler writes its own version.
file(READ ${IN} text)
string(REGEX REPLACE "\n\\.version [0-9.]+" "\n.version 6.5" text "${text}")
if(NOT text MATCHES "\n\\.version 6\\.5")
  message(FATAL_ERROR "${IN}: no .version line")
endif()
file(WRITE ${OUT} "${text}")
file(REMOVE ${IN})
