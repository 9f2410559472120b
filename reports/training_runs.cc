#include "reports/training_runs.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "nlohmann/json.hpp"
#include "reports/json_shape.h"

namespace classicnn {
namespace {

// A text of config.json: at the top or in one of its objects ("flags").
std::string FindText(const nlohmann::json& config, const char* key) {
  const auto text = [](const nlohmann::json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  if (config.contains(key) && !config[key].is_object()) return text(config[key]);
  for (const auto& [name, value] : config.items()) {
    if (value.is_object() && value.contains(key) && !value[key].is_object()) {
      return text(value[key]);
    }
  }
  return "";
}

// A whole number of an object of config.json; 0 where there is none.
int64_t FindCount(const nlohmann::json& config, const char* object, const char* key) {
  const auto found = config.find(object);
  if (found == config.end() || !found->is_object()) return 0;
  const auto value = found->find(key);
  return value != found->end() && value->is_number_integer() ? value->get<int64_t>() : 0;
}

// Only the epoch must be there; what is there is a number, or null where nothing was measured.
absl::Status CheckEpoch(const nlohmann::json& j) {
  nlohmann::json pattern = {{"epoch", 0}};
  for (const char* key : {"train_loss", "train_accuracy", "test_loss", "test_accuracy",
                          "images_per_second", "seconds"}) {
    if (j.contains(key) && !j[key].is_null()) pattern[key] = 0;
  }
  return CheckShape(j, pattern);
}

TrainedEpoch ParseEpoch(const nlohmann::json& j) {
  const auto number = [&j](const char* key) {
    const auto found = j.find(key);
    return found != j.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  TrainedEpoch e;
  e.epoch = j.at("epoch").get<int64_t>();
  e.train_loss = number("train_loss");
  e.train_accuracy = number("train_accuracy");
  const auto test = j.find("test_accuracy");
  if (test != j.end() && test->is_number()) {
    e.test_accuracy = test->get<double>();
    e.test_loss = number("test_loss");
  }
  e.images_per_second = number("images_per_second");
  e.seconds = number("seconds");
  e.resumed = j.contains("timed_steps");
  return e;
}

}  // namespace

const TrainedEpoch* TrainingRun::last() const {
  for (auto it = epochs.rbegin(); it != epochs.rend(); ++it) {
    if (it->test_accuracy >= 0) return &*it;
  }
  return nullptr;
}

const TrainedEpoch* TrainingRun::best() const {
  const auto it = std::max_element(epochs.begin(), epochs.end(), [](const auto& a, const auto& b) {
    return a.test_accuracy < b.test_accuracy;
  });
  return it == epochs.end() || it->test_accuracy < 0 ? nullptr : &*it;
}

absl::StatusOr<TrainingRun> ReadTrainingRun(const std::string& folder) {
  TrainingRun run;
  run.path = folder;
  const std::string config_path = absl::StrCat(folder, "/config.json");
  const absl::StatusOr<std::string> config_text = ReadFile(config_path);
  if (!config_text.ok()) return config_text.status();
  const nlohmann::json config = nlohmann::json::parse(*config_text, nullptr, false);
  if (config.is_discarded() || !config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("'", config_path, "' is not a JSON object"));
  }
  run.model = FindText(config, "model");
  if (run.model.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("'", config_path, "' names no model"));
  }
  run.data = FindText(config, "data");
  if (config.contains("data") && config["data"].is_object()) {
    const nlohmann::json& data = config["data"];
    if (data.contains("kind") && data["kind"].is_string()) run.kind = data["kind"];
  }
  run.planned_epochs = FindCount(config, "flags", "epochs");
  run.batch = FindCount(config, "flags", "batch");
  run.train_images = FindCount(config, "data", "train_images");
  run.test_images = FindCount(config, "data", "test_images");
  run.augment = FindText(config, "augment");
  run.recipe = FindText(config, "recipe");
  const std::string threads = FindText(config, "threads"), cpu = FindText(config, "cpu_model");
  run.machine = absl::StrCat(threads,
                             threads.empty()  ? ""
                             : threads == "1" ? " thread"
                                              : " threads",
                             threads.empty() || cpu.empty() ? "" : ", ", cpu);

  const absl::StatusOr<std::string> note = ReadFile(absl::StrCat(folder, "/note.txt"));
  if (note.ok()) {
    run.note = std::string(absl::StripAsciiWhitespace(note->substr(0, note->find('\n'))));
  } else if (!absl::IsNotFound(note.status())) {
    return note.status();
  }

  const std::string metrics_path = absl::StrCat(folder, "/metrics.jsonl");
  const absl::StatusOr<std::string> metrics = ReadFile(metrics_path);
  if (!metrics.ok()) return metrics.status();
  const std::vector<std::string> lines = absl::StrSplit(*metrics, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const nlohmann::json j = nlohmann::json::parse(lines[i], nullptr, false);
    if (j.is_discarded() && i + 1 == lines.size()) break;  // no newline behind it yet
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", metrics_path, "' line ", i + 1, ": ", what));
    };
    if (j.is_discarded() || !j.is_object()) return error("not a JSON object");
    if (!j.contains("kind") || j["kind"] != "epoch") continue;
    if (absl::Status s = CheckEpoch(j); !s.ok()) return error(s.message());
    run.epochs.push_back(ParseEpoch(j));
  }
  return run;
}

}  // namespace classicnn
