# add_sanitized(NAME PATTERN): the library's files whose paths match, compiled once more, with AddressSanitizer and
# UndefinedBehaviorSanitizer. A program linked with NAME has these in the place of the library's, and is instrumented too; it
# costs the time to compile what it is about, and not all, as the presets asan and simt-asan do.
function(add_sanitized name pattern)
  get_target_property(sources minidl SOURCES)
  get_target_property(libraries minidl LINK_LIBRARIES)
  list(FILTER sources INCLUDE REGEX "${pattern}")
  add_library(${name} OBJECT ${sources})
  list(FILTER sources INCLUDE REGEX "[.]cu$")  # for the emulated device
  set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS -Wno-unknown-pragmas)
  target_compile_options(${name} PUBLIC $<$<CONFIG:Release>:-O1> -g1 -D_GLIBCXX_ASSERTIONS -fsanitize=address,undefined
                                        ${MINIDL_SANITIZE_OPTIONS})
  target_link_options(${name} INTERFACE -fsanitize=address,undefined)
  target_link_libraries(${name} PRIVATE ${libraries} PUBLIC minidl)
endfunction()
