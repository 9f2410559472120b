# Writes OUTPUT, a header with the checked-out commit of SOURCE. Run at every build; the file is only
# touched when its text changes, so that nothing is rebuilt for nothing.
cmake_minimum_required(VERSION 3.25)
set(commit unknown)
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} rev-parse --show-toplevel --short=12 HEAD
    WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE answer RESULT_VARIABLE failed
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  string(REPLACE "\n" ";" answer "${answer}")
  list(LENGTH answer length)
  if(failed EQUAL 0 AND length EQUAL 2)
    list(GET answer 0 top)
    file(REAL_PATH ${SOURCE} source)
    file(REAL_PATH ${top} top)
    if(top STREQUAL source)  # and not an archive unpacked inside some other checkout
      list(GET answer 1 commit)
      execute_process(COMMAND ${GIT_EXECUTABLE} status --porcelain --untracked-files=no
        WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE changes ERROR_QUIET)
      if(changes)
        string(APPEND commit -dirty)
      endif()
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define CLASSICNN_COMMIT \"@commit@\"\n" @ONLY)
