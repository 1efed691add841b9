# What `cmake --install` puts where, and the Debian package that CPack makes of it.

# Libraries go where Debian has them, whatever the prefix: that of the package is /usr, but GNUInstallDirs asks for the
# build's.
if(EXISTS /etc/debian_version AND CMAKE_LIBRARY_ARCHITECTURE)
  set(CMAKE_INSTALL_LIBDIR lib/${CMAKE_LIBRARY_ARCHITECTURE} CACHE PATH "Libraries, below the prefix")
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/minidl)

# --- the library -----------------------------------------------------------------------------------------------------
set_target_properties(minidl PROPERTIES EXPORT_NAME static)
set_target_properties(minidl_shared PROPERTIES EXPORT_NAME minidl)
install(TARGETS minidl_shared EXPORT minidl-shared INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS minidl EXPORT minidl-static INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_BINARY_DIR}/include/minidl DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.h)

# --- for CMake and pkg-config ----------------------------------------------------------------------------------------
install(EXPORT minidl-shared NAMESPACE minidl:: DESTINATION ${cmake_dir} FILE minidl-shared.cmake)
install(EXPORT minidl-static NAMESPACE minidl:: DESTINATION ${cmake_dir} FILE minidl-static.cmake)
set(minidl_components cpu static)
if(MINIDL_GPU STREQUAL "cuda")
  list(APPEND minidl_components cuda)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/minidl-config.cmake.in minidl-config.cmake
                              INSTALL_DESTINATION ${cmake_dir})
# Before 1.0 a minor version may break what the one before it promised.
write_basic_package_version_file(minidl-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/minidl-config.cmake ${PROJECT_BINARY_DIR}/minidl-config-version.cmake
              ${CMAKE_CURRENT_LIST_DIR}/../../third_party/cudnn.cmake
        DESTINATION ${cmake_dir})
file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/minidl.pc.in minidl.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/minidl.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# --- the programs, their manuals and completions ---------------------------------------------------------------------
if(MINIDL_APPS)
  set(programs train_ugatit translate_images convert_checkpoint make_demo_data)
  install(TARGETS ${programs})
  find_program(HELP2MAN help2man)
  set(completions ${CMAKE_CURRENT_LIST_DIR}/completions)
  foreach(program IN LISTS programs)
    if(HELP2MAN)
      add_custom_command(OUTPUT ${program}.1
                         COMMAND ${HELP2MAN} --no-info --no-discard-stderr --include ${CMAKE_CURRENT_LIST_DIR}/man/${program}.h2m
                                 --output ${program}.1 $<TARGET_FILE:${program}>
                         DEPENDS ${program} ${CMAKE_CURRENT_LIST_DIR}/man/${program}.h2m VERBATIM)
      list(APPEND manuals ${PROJECT_BINARY_DIR}/${program}.1)
    endif()
    install(FILES ${completions}/minidl.bash RENAME ${program}
            DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${completions}/minidl.fish RENAME ${program}.fish
            DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
  endforeach()
  install(FILES ${completions}/_minidl DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
  if(HELP2MAN)
    add_custom_target(manuals ALL DEPENDS ${manuals})
    install(FILES ${manuals} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  else()
    message(STATUS "No man pages: help2man is missing")
  endif()
endif()
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# --- the package -----------------------------------------------------------------------------------------------------
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR "libminidl")
set(CPACK_PACKAGE_CONTACT "the authors of libminidl")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
# What only the static library needs from its users.
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libdnnl-dev, libjpeg62-turbo-dev, zlib1g-dev, ocl-icd-opencl-dev, opencl-c-headers")
include(CPack)
