# Installs the build in BUILD below PREFIX, then configures, builds and runs the project beside this
# file against it; PREFIX gets a suffix of its own and is removed at the end. GENERATOR, BUILD_TYPE and CXX_FLAGS are those of the build.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}: ${result}\n${output}")
  endif()
endfunction()

string(RANDOM suffix)
string(APPEND PREFIX .${suffix})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX}/install)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${PREFIX}/build -G ${GENERATOR}
    -DCMAKE_BUILD_TYPE=${BUILD_TYPE} -DCMAKE_CXX_FLAGS=${CXX_FLAGS}
    -DCMAKE_PREFIX_PATH=${PREFIX}/install)
run(${CMAKE_COMMAND} --build ${PREFIX}/build)
run(${PREFIX}/build/consumer)
foreach(program IN LISTS PROGRAMS)
  run(${PREFIX}/install/bin/${program} --help)
endforeach()
file(REMOVE_RECURSE ${PREFIX})
