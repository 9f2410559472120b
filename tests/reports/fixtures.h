// Results made by hand, for the tests of reports.
#ifndef CLASSICNN_TESTS_REPORTS_FIXTURES_H_
#define CLASSICNN_TESTS_REPORTS_FIXTURES_H_

#include <string>

#include "reports/results.h"

namespace classicnn {

inline PassResult MakePass(int64_t batch, int threads, double seconds) {
  PassResult pass;
  pass.batch = batch;
  pass.threads = threads;
  pass.seconds.samples = {seconds, 0.98 * seconds, 1.02 * seconds};
  pass.forward.samples = {0.3 * seconds, 0.3 * seconds, 0.3 * seconds};
  pass.backward.samples = {0.6 * seconds, 0.6 * seconds, 0.6 * seconds};
  pass.update.samples = {0.1 * seconds, 0.1 * seconds, 0.1 * seconds};
  pass.images_per_second = static_cast<double>(batch) / seconds;
  pass.flops_per_second = 1e9 / seconds;
  pass.peak_fraction = 0.01 / seconds;
  pass.executed_flops_per_second = 0.5e9 / seconds;
  TypeResult conv{"conv2d 3x3", "forward", {}, 2, 1000000, 500000, 4000};
  conv.seconds.samples = {0.3 * seconds, 0.3 * seconds, 0.3 * seconds};
  TypeResult norm{"batch_norm2d", "backward", {}, 1, 0, 0, 8000};
  norm.seconds.samples = {0.6 * seconds, 0.6 * seconds, 0.6 * seconds};
  pass.types = {conv, norm};
  BoundResult arithmetic{"arithmetic", conv.seconds, 2, 500000, 4000, 0.2 * seconds};
  BoundResult memory{"memory", norm.seconds, 1, 0, 8000, 0.3 * seconds};
  pass.bounds = {arithmetic, memory};
  return pass;
}

inline ModelResult MakeModel(int64_t parameters, int64_t macs, double seconds) {
  ModelResult m;
  m.parameters = parameters;
  m.weight_bytes = 4 * parameters;
  m.macs = macs;
  m.linear_parameters = 10250;
  m.train_step = MakePass(64, 2, seconds);
  m.inference = MakePass(64, 2, 0.3 * seconds);
  m.inference_one = MakePass(1, 2, 0.01 * seconds);
  m.scaling = {MakePass(64, 1, 1.9 * seconds), m.train_step};
  m.memory.peak_bytes = 1000 * 1000;
  m.memory.activations = 600 * 1000;
  m.memory.weights = 400 * 1000;
  m.memory.timeline = {{0.1, "forward", 400000, 0, 0, 100000, 0},
                       {0.2, "backward", 400000, 0, 0, 600000, 0}};
  MemoryLimitResult unlimited{0, 1000 * 1000, 1000 * 1000, 600 * 1000, 4000, 0, 0, {}};
  MemoryLimitResult half{750 * 1000, 700 * 1000, 700 * 1000, 300 * 1000, 4100, 100, 2, {}};
  MemoryLimitResult least{500 * 1000, 500 * 1000, 500 * 1000, 100 * 1000, 5000, 1000, 9, {}};
  unlimited.seconds.samples = {seconds, seconds};
  half.seconds.samples = {1.04 * seconds, 1.04 * seconds};
  least.seconds.samples = {1.3 * seconds, 1.3 * seconds};
  m.memory_limits = {unlimited, half, least};
  LayerResult layer;
  layer.name = "conv1";
  layer.type = "conv2d 3x3";
  layer.macs = macs;
  layer.forward.samples = {0.3 * seconds};
  layer.backward.samples = {0.6 * seconds};
  m.layers = {layer};
  return m;
}

// All five, with the parameters and multiply-adds that they have.
inline Results MakeResults() {
  Results r;
  r.machine = {{"cpu_model", "A CPU <of> test & \"quotes\""}, {"logical_cpus", 2}};
  r.build = {{"commit", "abc"}};
  r.mode = "default";
  r.batch = 64;
  r.threads = 2;
  r.image_size = 32;
  r.num_classes = 10;
  r.measured_seconds = 12.5;
  MachinePeaks one;
  one.num_threads = 1;
  one.target = "avx2";
  one.fma_flops = 1e11;
  one.copy_bytes_per_second = 1e10;
  MachinePeaks two = one;
  two.num_threads = 2;
  r.peaks = {one, two};
  r.model_order = {"vgg16", "resnet18", "googlenet", "mobilenetv1", "densenet121"};
  r.models["vgg16"] = MakeModel(14986698, 313463808, 0.3);
  r.models["resnet18"] = MakeModel(11173962, 555422720, 0.5);
  r.models["googlenet"] = MakeModel(5983402, 1561143296, 1.7);
  r.models["mobilenetv1"] = MakeModel(3217226, 46354432, 0.1);
  r.models["densenet121"] = MakeModel(6956298, 888350720, 1.2);
  SpeedupResult s;
  s.type = "conv2d depthwise";
  s.pass = "forward";
  s.shape = "n2c32h32w32k32r3s1p1g32";
  s.optimized.samples = {1e-3};
  s.reference.samples = {7e-3};
  r.speedups = {s};
  r.speedup_shapes_total = 3;
  r.extra = {{"separable.standard_macs", 75497472.0},   {"separable.macs", 8978432.0},
             {"separable.standard_seconds", 3e-3},      {"separable.seconds", 1e-3},
             {"densenet121.dense_connections", 535.0},  {"densenet121.block_convolutions", 116.0},
             {"mobilenetv1.parameters_1000", 4231976.0}};
  return r;
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_REPORTS_FIXTURES_H_
