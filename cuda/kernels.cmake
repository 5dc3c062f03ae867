# Device code: one module per architecture, compiled from cuda/all.cu. The same source must give the same machine code in every
# checkout and every time. Names of files enter the compiler's choice of registers: it runs inside cuda/ and gets relative names.
# Addresses enter it too (one run in six gave attention_f16 125 registers on sm_86, the others 126): it runs at fixed ones.
find_program(ELLM_NVCC nvcc HINTS /usr/local/cuda/bin DOC "CUDA compiler")
find_program(ELLM_NVCC_HOST NAMES g++-11 g++-10 g++-9 g++-8 g++ DOC "host compiler for nvcc")
if(NOT ELLM_NVCC)
  message(STATUS "nvcc not found: kernels are not compiled, only the emulator is")
  return()
endif()

set(NVCC ${ELLM_NVCC})
find_program(SETARCH setarch)
if(SETARCH)
  execute_process(COMMAND ${SETARCH} -R true RESULT_VARIABLE FIXED_ADDRESSES OUTPUT_QUIET ERROR_QUIET) # containers may refuse it
  if(FIXED_ADDRESSES EQUAL 0)
    set(NVCC ${SETARCH} -R ${ELLM_NVCC})
  endif()
endif()

set(KERNEL_OUT ${ELLM_OUTPUT}/kernels)
file(MAKE_DIRECTORY ${KERNEL_OUT})
set(NVCC_FLAGS -std=c++14 -O3 -Xptxas -warn-spills -ccbin ${ELLM_NVCC_HOST} -I.)
set(KERNEL_OUTPUTS "")

# Asks the compiler which architectures it knows.
execute_process(COMMAND ${ELLM_NVCC} --help OUTPUT_VARIABLE NVCC_HELP)
function(add_module arch)
  if(NOT NVCC_HELP MATCHES "sm_${arch}[^0-9]")
    message(STATUS "sm_${arch}: not supported by ${ELLM_NVCC}")
    return()
  endif()
  set(cubin ${KERNEL_OUT}/sm_${arch}.cubin)
  add_custom_command(OUTPUT ${cubin} DEPENDS ${KERNEL_FILES} ${KERNEL_HEADERS}
    COMMAND ${NVCC} ${NVCC_FLAGS} -cubin -arch=sm_${arch} -o ${cubin} all.cu
    WORKING_DIRECTORY ${CUDA_DIR})
  set(KERNEL_OUTPUTS ${KERNEL_OUTPUTS} ${cubin} PARENT_SCOPE)
endfunction()

set(ELLM_ARCHS "53;62;72;75;80;86;87;90" CACHE STRING
  "compute capabilities to compile for: 5.3, 6.2, 7.2 and 8.7 are Jetson boards, which take no other's; 8.6 also serves 8.9")
foreach(arch ${ELLM_ARCHS})
  add_module(${arch})
endforeach()

# PTX for drivers that refuse machine code, and for later GPUs. `arch` is the lowest GPU that it is for, `isa` the version it is labelled with:
# JetPack 4.6's driver takes 6.5 at most, and every driver that knows compute capability 8.0 takes 7.0.
function(add_ptx arch isa)
  set(ptx ${KERNEL_OUT}/compute_${arch}.ptx)
  add_custom_command(OUTPUT ${ptx} DEPENDS ${KERNEL_FILES} ${KERNEL_HEADERS} ${CUDA_DIR}/relabel.cmake
    COMMAND ${NVCC} ${NVCC_FLAGS} -ptx -arch=compute_${arch} -o ${ptx}.tmp all.cu
    COMMAND ${CMAKE_COMMAND} -DIN=${ptx}.tmp -DOUT=${ptx} -DISA=${isa} -P ${CUDA_DIR}/relabel.cmake
    WORKING_DIRECTORY ${CUDA_DIR})
  set(KERNEL_OUTPUTS ${KERNEL_OUTPUTS} ${ptx} PARENT_SCOPE)
endfunction()
set(ELLM_PTX "53;80" CACHE STRING "compute capabilities to write PTX for")
foreach(arch ${ELLM_PTX})
  if(NVCC_HELP MATCHES "compute_${arch}[^0-9]")
    if(arch LESS 70)
      add_ptx(${arch} 6.5)
    else()
      add_ptx(${arch} 7.0)
    endif()
  else()
    message(WARNING "compute_${arch}: not supported by ${ELLM_NVCC}; its PTX is missing. CUDA 13 has no compiler for Jetson Nano, TX2 and Xavier.")
  endif()
endforeach()
if(NOT KERNEL_OUTPUTS)
  message(FATAL_ERROR "${ELLM_NVCC} supports none of ${ELLM_ARCHS} (ELLM_ARCHS) and ${ELLM_PTX} (ELLM_PTX)")
endif()
add_custom_target(kernels ALL DEPENDS ${KERNEL_OUTPUTS})
