#include "reports/measure.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/machine.h"
#include "core/program.h"
#include "models/model.h"
#include "reports/extra.h"
#include "reports/model_bench.h"
#include "reports/speedups.h"

namespace classicnn {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The passes of one model, in the order they are visited.
struct ModelPasses {
  std::unique_ptr<ModelBench> bench;
  MeasuredPass train_step, inference, inference_one;
  std::vector<MeasuredPass> scaling, batches;
  std::vector<MemoryLimitResult> memory_limits;
};

MeasuredPass Pass(bool train, int64_t batch, int threads) {
  MeasuredPass pass;
  pass.train = train;
  pass.batch = batch;
  pass.threads = threads;
  return pass;
}

absl::Status WithName(const std::string& name, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

absl::StatusOr<ModelPasses> MakePasses(const std::string& model, const MeasureOptions& options) {
  ModelOptions model_options;
  model_options.image_h = model_options.image_w = options.image_size;
  model_options.num_classes = options.num_classes;
  absl::StatusOr<Graph> graph = BuildModel(model, model_options);
  if (!graph.ok()) return graph.status();
  ModelPasses passes;
  auto bench = ModelBench::Create(*std::move(graph));
  if (!bench.ok()) return bench.status();
  passes.bench = *std::move(bench);
  passes.train_step = Pass(true, options.batch, options.threads);
  passes.inference = Pass(false, options.batch, options.threads);
  passes.inference_one = Pass(false, 1, options.threads);
  for (const int threads : options.scaling_threads) {
    if (threads != options.threads) passes.scaling.push_back(Pass(true, options.batch, threads));
  }
  for (const int64_t batch : options.batches) {
    if (batch != options.batch) passes.batches.push_back(Pass(true, batch, options.threads));
  }
  return passes;
}

absl::Status VisitAll(bool scaling, const VisitLimits& limits, ModelPasses* p) {
  std::vector<MeasuredPass*> visits = {&p->train_step, &p->inference, &p->inference_one};
  if (scaling) {
    for (MeasuredPass& pass : p->scaling) visits.push_back(&pass);
    for (MeasuredPass& pass : p->batches) visits.push_back(&pass);
  }
  for (MeasuredPass* pass : visits) {
    const absl::Status status = p->bench->Visit(limits, pass);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// A training step without a limit and under each, in turns: so they compare.
absl::Status MeasureMemoryLimits(const MeasureOptions& options, ModelPasses* p) {
  const auto range = p->bench->TrainMemory(options.batch, options.threads);
  if (!range.ok()) return range.status();
  const std::vector<int64_t> limits =
      ChooseMemoryLimits(range->unlimited, range->least, range->activations, options.limit_points);
  if (limits.empty()) return absl::OkStatus();
  const VisitLimits visit{options.limit_seconds, options.limit_samples, options.visit_most_seconds};
  const auto summary = [&](const MeasuredPass& pass) {
    return SummarizeMemoryLimit(p->bench->graph(), pass);
  };
  std::vector<MeasuredPass> passes = {Pass(true, options.batch, options.threads)};
  absl::Status status = p->bench->Visit(visit, &passes[0]);
  if (!status.ok()) return status;
  const int64_t gap = range->unlimited / 200;
  for (const int64_t limit : limits) {
    // A plan may stay so far below its limit that it meets the next one as well: then the next
    // smaller plan is the one to see. Differences below half a percent show nothing.
    const int64_t last = summary(passes.back()).plan_bytes;
    if (last <= range->least) break;
    MeasuredPass pass = Pass(true, options.batch, options.threads);
    pass.memory_limit = std::min(limit, last - gap);
    if (pass.memory_limit < range->least + gap) pass.memory_limit = range->least;
    status = p->bench->Visit(visit, &pass);
    if (!status.ok()) return status;
    passes.push_back(std::move(pass));
  }
  for (int turn = 1; turn < options.limit_turns; ++turn) {
    for (MeasuredPass& pass : passes) {
      status = p->bench->Visit(visit, &pass);
      if (!status.ok()) return status;
    }
  }
  for (const MeasuredPass& pass : passes) p->memory_limits.push_back(summary(pass));
  return absl::OkStatus();
}

ModelResult Summarize(const ModelPasses& p, const Results& results) {
  const Graph& graph = p.bench->graph();
  const auto summary = [&](const MeasuredPass& pass) {
    return SummarizePass(graph, pass, results.PeaksAt(pass.threads));
  };
  ModelResult r = DescribeModel(graph);
  r.plan_steps = static_cast<int64_t>(p.train_step.plan.steps.size());
  r.train_step = summary(p.train_step);
  r.inference = summary(p.inference);
  r.inference_one = summary(p.inference_one);
  for (const MeasuredPass& pass : p.scaling) r.scaling.push_back(summary(pass));
  r.scaling.push_back(r.train_step);
  std::sort(r.scaling.begin(), r.scaling.end(),
            [](const PassResult& a, const PassResult& b) { return a.threads < b.threads; });
  for (const MeasuredPass& pass : p.batches) r.batches.push_back(summary(pass));
  if (!r.batches.empty()) r.batches.push_back(r.train_step);
  std::sort(r.batches.begin(), r.batches.end(),
            [](const PassResult& a, const PassResult& b) { return a.batch < b.batch; });
  r.layers = SummarizeLayers(graph, p.train_step);
  r.memory = SummarizeMemory(graph, p.train_step);
  r.memory_limits = p.memory_limits;
  return r;
}

}  // namespace

MeasureOptions MeasureOptions::ForMode(const std::string& mode, int threads) {
  MeasureOptions o;
  o.mode = mode;
  o.threads = threads;
  o.scaling_threads = {1};
  if (mode == "quick") {
    o.min_rounds = o.max_rounds = 1;
    o.visit_samples = 3;
    o.visit_seconds = 0.1;
    o.visit_most_seconds = 4;
    o.speedup_seconds = 5;
    o.limit_turns = 1;
    o.limit_samples = 2;
    o.limit_seconds = 0;
  } else if (mode == "full") {
    o.min_rounds = 4;
    o.visit_most_seconds = 60;
    o.max_rounds = 12;
    o.scaling_rounds = 2;
    o.budget_seconds = 400;
    o.speedup_seconds = 300;
    o.limit_points = 8;
    o.limit_turns = 4;
    o.limit_samples = 2;
    o.limit_seconds = 0.5;
    o.batches = {1, 16, 32, 128};
    for (int t = 2; t < threads; t *= 2) o.scaling_threads.push_back(t);
  }
  return o;
}

std::vector<int64_t> ChooseMemoryLimits(int64_t unlimited, int64_t least, int64_t activations,
                                        int points) {
  if (least >= unlimited || points < 1) return {};
  std::vector<int64_t> limits;
  const auto add = [&](int64_t limit) {
    if (limit >= least && limit < unlimited) limits.push_back(limit);
  };
  for (int i = 1; i <= points; ++i) add(unlimited - (unlimited - least) * i / points);
  for (const int64_t kept : {activations / 2, activations / 4}) add(unlimited - activations + kept);
  std::sort(limits.rbegin(), limits.rend());
  limits.erase(std::unique(limits.begin(), limits.end()), limits.end());
  return limits;
}

absl::Status CheckMeasurable(const MeasureOptions& options) {
  const int64_t memory = GetMachineInfo().memory_bytes;
  ModelOptions model_options;
  model_options.image_h = model_options.image_w = options.image_size;
  model_options.num_classes = options.num_classes;
  for (const std::string& model : options.models) {
    const absl::StatusOr<Graph> graph = BuildModel(model, model_options);
    if (!graph.ok()) {
      return WithName(absl::StrCat("--image_size=", options.image_size), graph.status());
    }
    PlanOptions plan_options;
    plan_options.num_threads = options.threads;
    std::vector<int64_t> batches = options.batches;
    batches.push_back(options.batch);
    for (const int64_t batch : batches) {
      plan_options.batch = batch;
      const absl::StatusOr<Plan> plan = MakePlan(*graph, plan_options);
      if (!plan.ok()) return WithName(absl::StrCat("--batch=", batch), plan.status());
      // The system may promise memory and run out of it in the midst of measuring.
      const int64_t bytes = plan->arena_bytes + Total(ModelState::Bytes(*graph, Optimizer::kSgd));
      if (bytes > memory && memory > 0) {
        return absl::ResourceExhaustedError(
            absl::StrCat("--batch=", batch, ": ", model, " takes ", FormatBytes(bytes),
                         ", and this machine has ", FormatBytes(memory)));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Results> Measure(const MeasureOptions& options, Progress* progress) {
  const double started = Now();
  Results results;
  results.mode = options.mode;
  results.batch = options.batch;
  results.threads = options.threads;
  results.image_size = options.image_size;
  results.num_classes = options.num_classes;
  results.machine = GetMachineInfo();
  results.build = GetBuildInfo();

  std::map<std::string, ModelPasses> passes;
  for (const std::string& model : options.models) {
    if (passes.count(model) != 0) continue;
    auto made = MakePasses(model, options);
    if (!made.ok()) return WithName(model, made.status());
    passes[model] = *std::move(made);
    results.model_order.push_back(model);
  }

  progress->Update(0, 1, "probing the machine's peaks");
  std::set<int> thread_counts(options.scaling_threads.begin(), options.scaling_threads.end());
  thread_counts.insert(options.threads);
  thread_counts.insert(1);  // what the comparison with the references runs on
  for (const int threads : thread_counts) {
    const absl::StatusOr<MachinePeaks> peaks = GetMachinePeaks(threads);
    if (!peaks.ok()) {  // everything else can be measured
      std::fprintf(stderr, "cnn-report: peaks at %d threads are unknown: %s\n", threads,
                   std::string(peaks.status().message()).c_str());
    }
    MachinePeaks unknown;
    unknown.num_threads = threads;
    results.peaks.push_back(peaks.ok() ? *peaks : unknown);
  }

  const VisitLimits limits{options.visit_seconds, options.visit_samples,
                           options.visit_most_seconds};
  const int models = static_cast<int>(results.model_order.size());
  const double rounds_started = Now();
  for (int round = 0; round < options.max_rounds; ++round) {
    const double round_started = Now();
    for (int m = 0; m < models; ++m) {
      const std::string& model = results.model_order[static_cast<size_t>(m)];
      progress->Update(round * models + m, options.max_rounds * models,
                       absl::StrCat("round ", round + 1, ", ", model));
      const bool scaling = round < options.scaling_rounds;
      const absl::Status status = VisitAll(scaling, limits, &passes[model]);
      if (!status.ok()) return WithName(model, status);
    }
    const double now = Now();
    const bool another_fits = now - rounds_started + (now - round_started) < options.budget_seconds;
    if (round + 1 >= options.min_rounds && !another_fits) break;
  }
  for (int m = 0; m < models && options.limit_points > 0; ++m) {
    const std::string& model = results.model_order[static_cast<size_t>(m)];
    progress->Update(m, models, absl::StrCat("limits of memory, ", model));
    const absl::Status status = MeasureMemoryLimits(options, &passes[model]);
    if (!status.ok()) return WithName(model, status);
  }
  for (const auto& [model, p] : passes) results.models[model] = Summarize(p, results);

  absl::Status status = MeasureExtra(options, &results, progress);
  if (!status.ok()) return status;
  for (auto& [model, p] : passes) {
    const auto rms = p.bench->GradientRms();
    if (!rms.ok()) return WithName(model, rms.status());
    results.extra[absl::StrCat(model, ".first_gradient_rms")] = rms->first;
    results.extra[absl::StrCat(model, ".last_gradient_rms")] = rms->second;
  }
  passes.clear();
  status = MeasureSpeedups(options, &results, progress);
  if (!status.ok()) return status;
  results.measured_seconds = Now() - started;
  return results;
}

}  // namespace classicnn
