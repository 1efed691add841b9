# cmake -D BUILD=... -D SOURCE=... -D WORK=... -D GPU=... -D WHAT=... -P check.cmake: uses libminidl as other projects do.
#   WHAT    package (find_package) or pkg-config: of an installation from the build tree BUILD, moved to another place;
#           subdirectory: the sources SOURCE as a part of the project
#   WORK    a folder of this call's own
#   GPU     MINIDL_GPU of the build tree
cmake_policy(VERSION 3.25)
set(consumer ${CMAKE_CURRENT_LIST_DIR})
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(status)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${status}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# Configures, builds and runs the consumer.
function(use name)
  set(build ${WORK}/${name})
  run(${CMAKE_COMMAND} -S ${consumer} -B ${build} -G Ninja ${ARGN})
  run(${CMAKE_COMMAND} --build ${build})
  run(${build}/consumer)
  message("${name}: ${output}")
endfunction()

if(WHAT STREQUAL "subdirectory")
  use(subdirectory -DMINIDL_SOURCE=${SOURCE} -DCMAKE_BUILD_TYPE=Debug)
  return()
endif()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
file(RENAME ${WORK}/first ${WORK}/moved)
if(WHAT STREQUAL "package")
  use(shared -DCMAKE_PREFIX_PATH=${WORK}/moved)
  use(static -DCMAKE_PREFIX_PATH=${WORK}/moved -DCONSUMER_COMPONENTS=static -DCONSUMER_LIBRARY=minidl::static)
  if(NOT GPU STREQUAL "cuda")
    execute_process(COMMAND ${CMAKE_COMMAND} -S ${consumer} -B ${WORK}/cuda -DCMAKE_PREFIX_PATH=${WORK}/moved
                            -DCONSUMER_COMPONENTS=cuda RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE output)
    if(NOT status OR NOT output MATCHES "cuda")
      message(FATAL_ERROR "a build without CUDA gave the component cuda: ${output}")
    endif()
  endif()
else()
  file(GLOB_RECURSE description ${WORK}/moved/*/minidl.pc)
  cmake_path(GET description PARENT_PATH folder)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  run(pkg-config --cflags --libs minidl)
  string(STRIP "${output}" output)
  separate_arguments(flags UNIX_COMMAND "${output}")
  run(c++ -std=c++20 ${consumer}/main.cpp -o ${WORK}/consumer ${flags})
  run(pkg-config --variable=libdir minidl)
  string(STRIP "${output}" output)
  set(ENV{LD_LIBRARY_PATH} ${output})
  run(${WORK}/consumer)
  message("pkg-config: ${output}")
endif()
