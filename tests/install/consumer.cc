// Builds ResNet-18 with the installed library and runs one image through it.
#include <cstdio>

#include "models/executor.h"
#include "models/model.h"

int main() {
  using namespace classicnn;  // NOLINT(google-build-using-namespace)
  const auto graph = BuildModel("resnet18");
  if (!graph.ok()) return 1;
  Context ctx(1);
  PlanOptions options;
  options.batch = 1;
  options.training = options.loss = options.backward = false;
  options.update = Update::kNone;
  auto plan = MakePlan(*graph, options);
  if (!plan.ok()) return 1;
  auto state = ModelState::Create(*graph, Optimizer::kNone, &ctx.memory());
  if (!state.ok()) return 1;
  (*state)->Initialize(*graph, /*seed=*/1);
  auto executor = Executor::Create(*graph, *std::move(plan), state->get(), ctx);
  if (!executor.ok()) return 1;
  const Tensor image = (*executor)->input();
  for (int64_t i = 0; i < image.size(); ++i) image.data[i] = static_cast<float>(i % 7) - 3.0f;
  (*executor)->Forward();
  const ConstTensor logits = (*executor)->logits();
  for (int64_t k = 0; k < logits.c; ++k) std::printf("%g ", static_cast<double>(logits.data[k]));
  std::printf("\n");
  return logits.c == 10 && logits.data[0] == logits.data[0] ? 0 : 1;
}
