# Device code: one module per architecture, compiled from cuda/all.cu.
find_program(ELLM_NVCC nvcc HINTS /usr/local/cuda/bin DOC "CUDA compiler")
find_program(ELLM_NVCC_HOST NAMES g++-11 g++-10 g++-9 g++-8 g++ DOC "host compiler for nvcc")
if(NOT ELLM_NVCC)
  message(STATUS "nvcc not found: kernels are not compiled, only the emulator is")
  return()
endif()

set(KERNEL_OUT ${ELLM_OUTPUT}/kernels)
file(MAKE_DIRECTORY ${KERNEL_OUT})
set(NVCC_FLAGS -std=c++14 -O3 -Xptxas -warn-spills -ccbin ${ELLM_NVCC_HOST} -I${CUDA_DIR})
set(KERNEL_OUTPUTS "")

# Asks the compiler which architectures it knows.
execute_process(COMMAND ${ELLM_NVCC} --help OUTPUT_VARIABLE NVCC_HELP)
function(add_module arch)
  if(NOT NVCC_HELP MATCHES "sm_${arch}")
    message(STATUS "sm_${arch}: not supported by ${ELLM_NVCC}")
    return()
  endif()
  set(cubin ${KERNEL_OUT}/sm_${arch}.cubin)
  add_custom_command(OUTPUT ${cubin} DEPENDS ${KERNEL_FILES} ${KERNEL_HEADERS}
    COMMAND ${ELLM_NVCC} ${NVCC_FLAGS} -cubin -arch=sm_${arch} -o ${cubin} ${CUDA_DIR}/all.cu)
  set(KERNEL_OUTPUTS ${KERNEL_OUTPUTS} ${cubin} PARENT_SCOPE)
endfunction()

set(ELLM_ARCHS "53;75;80;86;90" CACHE STRING "compute capabilities to compile for (8.6 also serves 8.9)")
foreach(arch ${ELLM_ARCHS})
  add_module(${arch})
endforeach()

# PTX for drivers that refuse the cubin, and for later GPUs. JetPack 4.6's driver takes ISA 6.5 at most.
set(ptx ${KERNEL_OUT}/compute_53.ptx)
add_custom_command(OUTPUT ${ptx} DEPENDS ${KERNEL_FILES} ${KERNEL_HEADERS} ${CUDA_DIR}/relabel.cmake
  COMMAND ${ELLM_NVCC} ${NVCC_FLAGS} -ptx -arch=compute_53 -o ${ptx}.tmp ${CUDA_DIR}/all.cu
  COMMAND ${CMAKE_COMMAND} -DIN=${ptx}.tmp -DOUT=${ptx} -P ${CUDA_DIR}/relabel.cmake)
add_custom_target(kernels ALL DEPENDS ${KERNEL_OUTPUTS} ${ptx})
