# Labels PTX as ISA 6.5, without the debugging sections that older drivers do not read.
file(READ ${IN} text)
string(REGEX REPLACE "\n\\.version [0-9.]+" "\n.version 6.5" text "${text}")
if(NOT text MATCHES "\n\\.version 6\\.5")
  message(FATAL_ERROR "${IN}: no .version line")
endif()
file(WRITE ${OUT} "${text}")
file(REMOVE ${IN})
