# Compile options shared by every target, carried by one interface library.
add_library(classicnn_options INTERFACE)
target_compile_features(classicnn_options INTERFACE cxx_std_17)
target_compile_options(classicnn_options INTERFACE
  $<BUILD_INTERFACE:-Wall -Wextra -Wconversion -Wshadow -Wno-missing-field-initializers>)
if(CLASSICNN_WERROR)
  target_compile_options(classicnn_options INTERFACE $<BUILD_INTERFACE:-Werror>)
endif()

# Run-time dispatch covers the compiler's baseline, AVX2 and AVX-512. The in-between targets (bit 11
# SSE4, bit 12 SSSE3) and the specialised ones above AVX-512 (bits 0 to 7) only lengthen the build.
# A number, because the names of the bits differ between Highway versions. Library and tests must
# agree on it, or a test named after one target silently runs another.
if(CLASSICNN_SCALAR)
  target_compile_definitions(classicnn_options INTERFACE HWY_COMPILE_ONLY_SCALAR)
else()
  target_compile_definitions(classicnn_options INTERFACE HWY_DISABLED_TARGETS=0x18ff)
endif()

# No fused multiply-add is formed behind our back, no reordering of sums: results must not depend on
# what the optimizer felt like. Kernels say hn::MulAdd where they mean it.
target_compile_options(classicnn_options INTERFACE $<BUILD_INTERFACE:-ffp-contract=off>)

if(CLASSICNN_SANITIZE)
  target_compile_options(classicnn_options INTERFACE
    -fsanitize=${CLASSICNN_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(classicnn_options INTERFACE -fsanitize=${CLASSICNN_SANITIZE})
endif()
