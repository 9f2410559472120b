// Checks of our own invariants: always on, they say what broke and stop the program.
// Bad input from outside (files, flags, shapes) is an absl::Status instead, never a check.
#ifndef CLASSICNN_CORE_CHECK_H_
#define CLASSICNN_CORE_CHECK_H_

#include <string>

#include "absl/strings/str_cat.h"

namespace classicnn {

// Prints "file:line: check failed: condition (details)" and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& details);

}  // namespace classicnn

// CNN_CHECK(x.c == y.c, x.c, " against ", y.c): everything after the condition goes to
// absl::StrCat when it fails.
#define CNN_CHECK(condition, ...)                                                            \
  do {                                                                                       \
    if (!(condition))                                                                        \
      ::classicnn::CheckFailed(__FILE__, __LINE__, #condition, ::absl::StrCat(__VA_ARGS__)); \
  } while (false)

// For hot loops: only in builds without NDEBUG.
#ifdef NDEBUG
#define CNN_DCHECK(condition, ...) \
  do {                             \
  } while (false)
#else
#define CNN_DCHECK(condition, ...) CNN_CHECK(condition, ##__VA_ARGS__)
#endif

#endif  // CLASSICNN_CORE_CHECK_H_
