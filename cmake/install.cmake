# Installs libraries, headers, programs and a CMake package: find_package(classicnn) then gives
# classicnn::core, classicnn::layers and classicnn::models. Headers keep the spelling they have
# here ("layers/conv2d/conv2d.h") below include/classicnn.
install(TARGETS classicnn_options classicnn_core classicnn_layers classicnn_models
        EXPORT classicnnTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(folder core layers models)
  install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/classicnn
          FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE)
endforeach()
install(EXPORT classicnnTargets NAMESPACE classicnn::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/classicnn)
configure_package_config_file(cmake/classicnnConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/classicnnConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/classicnn)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/classicnnConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/classicnnConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/classicnnConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/classicnn)
