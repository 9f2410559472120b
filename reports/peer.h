// A comparison with another framework, as scripts/compare_pytorch writes it.
#ifndef CLASSICNN_REPORTS_PEER_H_
#define CLASSICNN_REPORTS_PEER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "reports/timing.h"

namespace classicnn {

inline constexpr char kPeerSchema[] = "classicnn-peer-1";

struct PeerModel {
  Timing ours, peer;            // of a training step, measured in turns
  std::string peer_layout;      // the better one of those tried
  int64_t ours_peak_bytes = 0;  // of the process
  int64_t peer_peak_bytes = 0;
};

struct PeerComparison {
  std::string path;
  std::string peer;  // "PyTorch 1.13.1"
  std::string cpu_model;
  int64_t batch = 0;
  int threads = 0;
  std::map<std::string, PeerModel> models;
};

// InvalidArgument or NotFound names `path` and what is wrong.
absl::StatusOr<PeerComparison> ReadPeerComparison(const std::string& path);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_PEER_H_
