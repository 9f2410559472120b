// RunProbeInChild (core/probe.h).
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/probe.h"
#include "core/trace.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace classicnn {
namespace {

constexpr int64_t kPatienceNanos = int64_t{60} * 1'000'000'000;

bool ReadRates(int fd, ProbeRates* rates) {
  const int64_t deadline_ns = NowNanos() + kPatienceNanos;
  auto* next = reinterpret_cast<char*>(rates);
  size_t missing = sizeof(*rates);
  while (missing > 0) {
    const int64_t left_ns = deadline_ns - NowNanos();
    if (left_ns <= 0) return false;
    pollfd waiting = {fd, POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(left_ns / 1'000'000) + 1) < 0 && errno != EINTR) {
      return false;
    }
    if (waiting.revents == 0) continue;
    const ssize_t got = read(fd, next, missing);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    missing -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

// A plain fork, without exec: it works for every program, test and library user alike, wherever
// they are installed, while a helper program would have to be found first, and a second run of the
// program itself (/proc/self/exe) would have to be intercepted in every main(). The price is that
// the child of a process with threads may only do what needs none of their locks. It allocates
// (glibc's malloc is safe across fork), starts threads of its own, and writes to a pipe; it touches
// neither TBB nor stdio, and leaves by _exit.
bool RunProbeInChild(int num_threads, int64_t copy_bytes, ProbeRates* rates) {
  int ends[2];
  if (pipe(ends) != 0) return false;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
#endif
    const ProbeRates result = RunProbe(num_threads, copy_bytes);
    const ssize_t written = write(ends[1], &result, sizeof(result));  // below PIPE_BUF: whole
    _exit(written == static_cast<ssize_t>(sizeof(result)) ? 0 : 1);
  }
  close(ends[1]);
  const bool ok = child > 0 && ReadRates(ends[0], rates);
  close(ends[0]);
  if (child > 0) {
    if (!ok) kill(child, SIGKILL);
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  return ok;
}

}  // namespace classicnn
