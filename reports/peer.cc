#include "reports/peer.h"

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "nlohmann/json.hpp"
#include "reports/json_shape.h"

namespace classicnn {

absl::StatusOr<PeerComparison> ReadPeerComparison(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  const nlohmann::json j = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (j.is_discarded() || !j.is_object() || !j.contains("schema") || j["schema"] != kPeerSchema) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is not a comparison of scripts/compare_pytorch (its \"schema\" ",
                     "must be \"", kPeerSchema, "\")"));
  }
  const nlohmann::json timing = {{"samples", {1}}};
  const nlohmann::json pattern = {
      {"peer", ""},
      {"cpu_model", ""},
      {"batch", 0},
      {"threads", 0},
      {"models",
       {{"*",
         {{"ours", {{"seconds", timing}, {"process_peak_bytes", 0}}},
          {"peer", {{"seconds", timing}, {"layout", ""}, {"process_peak_bytes", 0}}}}}}}};
  if (absl::Status s = CheckShape(j, pattern); !s.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "': ", s.message()));
  }
  PeerComparison c;
  c.path = path;
  try {
    j.at("peer").get_to(c.peer);
    j.at("cpu_model").get_to(c.cpu_model);
    j.at("batch").get_to(c.batch);
    j.at("threads").get_to(c.threads);
    for (const auto& [name, m] : j.at("models").items()) {
      PeerModel& model = c.models[name];
      m.at("ours").at("seconds").get_to(model.ours);
      m.at("ours").at("process_peak_bytes").get_to(model.ours_peak_bytes);
      m.at("peer").at("seconds").get_to(model.peer);
      m.at("peer").at("layout").get_to(model.peer_layout);
      m.at("peer").at("process_peak_bytes").get_to(model.peer_peak_bytes);
      if (model.ours.median() <= 0 || model.peer.median() <= 0) {
        return absl::InvalidArgumentError(absl::StrCat("'", path, "': no times of ", name));
      }
    }
  } catch (const nlohmann::json::exception&) {  // what the pattern does not tell apart
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' is not as scripts/compare_pytorch writes it: changed, or damaged"));
  }
  return c;
}

}  // namespace classicnn
