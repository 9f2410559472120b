#include "benches/peers/onednn.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <limits>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/memory.h"
#include "core/trace.h"
#include "dnnl.hpp"

namespace classicnn {
namespace {

using dnnl::algorithm;
using dnnl::memory;
using dnnl::prop_kind;
using Dims = memory::dims;
using Tag = memory::format_tag;
using Args = std::unordered_map<int, memory>;

constexpr auto kF32 = memory::data_type::f32;

// oneDNN orders dimensions n, c, h, w whatever the layout in memory.
Dims ImageDims(const Shape4& s) { return {s.n, s.c, s.h, s.w}; }

class PrimitiveCase : public OneDnnCase {
 public:
  PrimitiveCase(const LayerCase& source, bool automatic)
      : shape_(source.shape()), pass_(source.pass()), automatic_(automatic) {}

  // Makes the primitives. Throws dnnl::error.
  void Build(const LayerCase& source) {
    switch (shape_.kind) {
      case LayerKind::kConv2d:
        return BuildConv2d(source);
      case LayerKind::kLinear:
        return BuildLinear(source);
      default:
        return BuildInFastestLayout(source);
    }
  }

  void Run() override {
    for (auto& [primitive, args] : calls_) primitive.execute(stream_, args);
    stream_.wait();
  }

  int64_t executed_macs() const override {
    // Its Winograd algorithm is F(4x4, 3x3): 36 products for what takes 144 directly.
    const bool winograd = implementation_.find("wino") != std::string::npos;
    return winograd ? shape_.macs() / 4 : shape_.macs();
  }

  std::string label() const override {
    const dnnl_version_t* version = dnnl_version();
    return absl::StrCat("oneDNN ", version->major, ".", version->minor, ".", version->patch, " ",
                        implementation_);
  }

  absl::Status Check(const LayerCase& source) override {
    Run();
    const double bound = automatic_ ? 5e-4 : 1e-4;
    for (const Output& output : outputs_) {
      int64_t count = 0;
      for (const LayerCase::TensorRef& tensor : source.tensors()) {
        if (tensor.name == output.name) count = tensor.count;
      }
      std::vector<float> actual(static_cast<size_t>(count),
                                std::numeric_limits<float>::quiet_NaN());
      memory plain(output.plain, engine_, actual.data());
      Reorder(output.where, plain);
      const auto error = RelativeError(actual.data(), source.tensor(output.name), count);
      const std::string what =
          absl::StrCat("wrong result: ", LayerKindName(shape_.kind), "_", LayerPassName(pass_), " ",
                       shape_.ToString(), " by ", label(), ": ", output.name);
      if (!error.ok()) {
        return absl::FailedPreconditionError(absl::StrCat(what, ": ", error.status().message()));
      }
      if (*error > bound) {
        return absl::FailedPreconditionError(
            absl::StrCat(what, " differs from the reference by ", *error, ", allowed ", bound));
      }
    }
    return absl::OkStatus();
  }

 private:
  struct Output {
    std::string name;    // of the source's tensor
    memory where;        // in oneDNN's layout
    memory::desc plain;  // the layout that the source has it in
  };

  // Memory from an arena of its own, as ours has it: huge pages, and starts that differ within a
  // page from tensor to tensor.
  memory NewMemory(const memory::desc& desc) {
    const int64_t offset = static_cast<int64_t>(arenas_.size() % 64) * 9 * 64;
    BytesByCategory bytes{};
    At(bytes, MemoryCategory::kActivations) = static_cast<int64_t>(desc.get_size()) + offset + 64;
    auto arena = Arena::Create(bytes, nullptr);
    if (!arena.ok()) throw dnnl::error(dnnl_out_of_memory, "out of memory");
    arenas_.push_back(*std::move(arena));
    return memory(desc, engine_, arenas_.back()->data() + offset);
  }

  void Reorder(const memory& from, const memory& to) {
    memory source = from;
    memory target = to;
    dnnl::reorder(source, target).execute(stream_, source, target);
    stream_.wait();
  }

  // A tensor of the source, as an input in oneDNN's layout.
  memory Input(const LayerCase& source, const char* name, const memory::desc& plain,
               const memory::desc& preferred) {
    memory result = NewMemory(preferred);
    Reorder(memory(plain, engine_, source.tensor(name)), result);
    return result;
  }
  memory NewOutput(const std::string& name, const memory::desc& plain,
                   const memory::desc& preferred) {
    memory result = NewMemory(preferred);
    outputs_.push_back({name, result, plain});
    return result;
  }

  void Call(dnnl::primitive primitive, Args args) {
    calls_.emplace_back(std::move(primitive), std::move(args));
  }

  void BuildConv2d(const LayerCase& source) {
    const Conv2dShape& s = shape_.conv2d;
    const algorithm kind = automatic_ ? algorithm::convolution_auto : algorithm::convolution_direct;
    const int64_t g = s.groups, o = s.out_channels / g, i = s.in_channels / g, r = s.kernel;
    const Dims weight_dims = g == 1 ? Dims{o, i, r, r} : Dims{g, o, i, r, r};
    // Ours: [R, R, C/G, K].
    const int64_t k = s.out_channels;
    const Dims weight_strides =
        g == 1 ? Dims{1, k, r * i * k, i * k} : Dims{o, 1, k, r * i * k, i * k};
    const memory::desc plain_w(weight_dims, kF32, weight_strides);
    const memory::desc plain_x(ImageDims(s.input()), kF32, Tag::nhwc);
    const memory::desc plain_y(ImageDims(s.output()), kF32, Tag::nhwc);
    const memory::desc any_w(weight_dims, kF32, Tag::any);
    const memory::desc any_x(ImageDims(s.input()), kF32, Tag::any);
    const memory::desc any_y(ImageDims(s.output()), kF32, Tag::any);
    const Dims strides = {s.stride, s.stride};
    const Dims padding = {s.padding, s.padding};
    const dnnl::convolution_forward::primitive_desc forward(
        {prop_kind::forward_training, kind, any_x, any_w, any_y, strides, padding, padding},
        engine_);
    if (pass_ == LayerPass::kForward) {
      implementation_ = forward.impl_info_str();
      Call(dnnl::convolution_forward(forward),
           {{DNNL_ARG_SRC, Input(source, "x", plain_x, forward.src_desc())},
            {DNNL_ARG_WEIGHTS, Input(source, "weights", plain_w, forward.weights_desc())},
            {DNNL_ARG_DST, NewOutput("y", plain_y, forward.dst_desc())}});
    } else if (pass_ == LayerPass::kBackwardData) {
      const dnnl::convolution_backward_data::primitive_desc pd(
          {kind, any_x, any_w, any_y, strides, padding, padding}, engine_, forward);
      implementation_ = pd.impl_info_str();
      Call(dnnl::convolution_backward_data(pd),
           {{DNNL_ARG_DIFF_DST, Input(source, "dy", plain_y, pd.diff_dst_desc())},
            {DNNL_ARG_WEIGHTS, Input(source, "weights", plain_w, pd.weights_desc())},
            {DNNL_ARG_DIFF_SRC, NewOutput("dx", plain_x, pd.diff_src_desc())}});
    } else {
      const dnnl::convolution_backward_weights::primitive_desc pd(
          {kind, any_x, any_w, any_y, strides, padding, padding}, engine_, forward);
      implementation_ = pd.impl_info_str();
      Call(dnnl::convolution_backward_weights(pd),
           {{DNNL_ARG_DIFF_DST, Input(source, "dy", plain_y, pd.diff_dst_desc())},
            {DNNL_ARG_SRC, Input(source, "x", plain_x, pd.src_desc())},
            {DNNL_ARG_DIFF_WEIGHTS, NewOutput("dweights", plain_w, pd.diff_weights_desc())}});
    }
  }

  void BuildLinear(const LayerCase& source) {
    const LinearShape& s = shape_.linear;
    const Dims x = {s.n, s.in_features}, w = {s.out_features, s.in_features}, b = {s.out_features},
               y = {s.n, s.out_features};
    const memory::desc plain_x(x, kF32, Tag::nc), plain_w(w, kF32, Tag::io),
        plain_b(b, kF32, Tag::x), plain_y(y, kF32, Tag::nc);
    const memory::desc any_x(x, kF32, Tag::any), any_w(w, kF32, Tag::any), any_b(b, kF32, Tag::any),
        any_y(y, kF32, Tag::any);
    const dnnl::inner_product_forward::primitive_desc forward(
        {prop_kind::forward_training, any_x, any_w, any_b, any_y}, engine_);
    if (pass_ == LayerPass::kForward) {
      implementation_ = forward.impl_info_str();
      Call(dnnl::inner_product_forward(forward),
           {{DNNL_ARG_SRC, Input(source, "x", plain_x, forward.src_desc())},
            {DNNL_ARG_WEIGHTS, Input(source, "weights", plain_w, forward.weights_desc())},
            {DNNL_ARG_BIAS, Input(source, "bias", plain_b, forward.bias_desc())},
            {DNNL_ARG_DST, NewOutput("y", plain_y, forward.dst_desc())}});
    } else if (pass_ == LayerPass::kBackwardData) {
      const dnnl::inner_product_backward_data::primitive_desc pd({any_x, any_w, any_y}, engine_,
                                                                 forward);
      implementation_ = pd.impl_info_str();
      Call(dnnl::inner_product_backward_data(pd),
           {{DNNL_ARG_DIFF_DST, Input(source, "dy", plain_y, pd.diff_dst_desc())},
            {DNNL_ARG_WEIGHTS, Input(source, "weights", plain_w, pd.weights_desc())},
            {DNNL_ARG_DIFF_SRC, NewOutput("dx", plain_x, pd.diff_src_desc())}});
    } else {
      const dnnl::inner_product_backward_weights::primitive_desc pd({any_x, any_w, any_b, any_y},
                                                                    engine_, forward);
      implementation_ = pd.impl_info_str();
      Call(dnnl::inner_product_backward_weights(pd),
           {{DNNL_ARG_DIFF_DST, Input(source, "dy", plain_y, pd.diff_dst_desc())},
            {DNNL_ARG_SRC, Input(source, "x", plain_x, pd.src_desc())},
            {DNNL_ARG_DIFF_WEIGHTS, NewOutput("dweights", plain_w, pd.diff_weights_desc())},
            {DNNL_ARG_DIFF_BIAS, NewOutput("dbias", plain_b, pd.diff_bias_desc())}});
    }
  }

  // The layers that do not choose a layout themselves take what they get: every layout is tried,
  // and the one that is fastest over a few calls stays.
  void BuildInFastestLayout(const LayerCase& source) {
    std::vector<Tag> tags = {Tag::nhwc};
    if (shape_.kind != LayerKind::kConcat) {
      const int64_t channels =
          shape_.kind == LayerKind::kMaxPool2d || shape_.kind == LayerKind::kAvgPool2d
              ? shape_.pool.input.c
              : shape_.tensor.c;
      if (channels % 16 == 0) tags.push_back(Tag::nChw16c);
      if (channels % 8 == 0) tags.push_back(Tag::nChw8c);
    } else {
      const auto all = [this](int64_t block) {
        return std::all_of(shape_.concat.channels.begin(), shape_.concat.channels.end(),
                           [block](int64_t c) { return c % block == 0; });
      };
      if (all(16)) tags.push_back(Tag::nChw16c);
      if (all(8)) tags.push_back(Tag::nChw8c);
    }
    int64_t best_ns = std::numeric_limits<int64_t>::max();
    Tag best = Tag::nhwc;
    for (const Tag tag : tags) {
      BuildStream(source, tag);
      if (tags.size() == 1) return;
      Run();
      for (int i = 0; i < 5; ++i) {
        const int64_t begin = NowNanos();
        Run();
        const int64_t ns = NowNanos() - begin;
        if (ns < best_ns) {
          best_ns = ns;
          best = tag;
        }
      }
      if (tag != tags.back()) Clear();
    }
    if (best == tags.back()) return;
    Clear();
    BuildStream(source, best);
  }

  void Clear() {
    calls_.clear();
    outputs_.clear();
    arenas_.clear();
  }

  void BuildStream(const LayerCase& source, Tag tag) {
    switch (shape_.kind) {
      case LayerKind::kBatchNorm2d:
        return BuildBatchNorm(source, tag);
      case LayerKind::kRelu:
        return BuildRelu(source, tag);
      case LayerKind::kMaxPool2d:
        return BuildPool(source, tag, algorithm::pooling_max, shape_.pool);
      case LayerKind::kAvgPool2d:
        return BuildPool(source, tag, algorithm::pooling_avg_include_padding, shape_.pool);
      case LayerKind::kGlobalAvgPool2d: {
        // One window over the whole image.
        const Shape4& s = shape_.tensor;
        return BuildPooling(source, tag, algorithm::pooling_avg_include_padding, s,
                            {s.n, 1, 1, s.c}, {1, 1}, {s.h, s.w}, {0, 0});
      }
      case LayerKind::kAdd:
        return BuildAdd(source, tag);
      case LayerKind::kConcat:
        return BuildConcat(source, tag);
      default:
        CheckFailed(__FILE__, __LINE__, "oneDNN has it", LayerKindName(shape_.kind));
    }
  }

  void BuildBatchNorm(const LayerCase& source, Tag tag) {
    const Dims dims = ImageDims(shape_.tensor);
    const memory::desc plain(dims, kF32, Tag::nhwc), data(dims, kF32, tag);
    const memory::desc channel({shape_.tensor.c}, kF32, Tag::x);
    auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    if (!shape_.training) flags |= dnnl::normalization_flags::use_global_stats;
    constexpr float kEps = 1e-5f;
    const bool forward = pass_ == LayerPass::kForward;
    const dnnl::batch_normalization_forward::primitive_desc pd(
        {shape_.training || !forward ? prop_kind::forward_training : prop_kind::forward_inference,
         data, kEps, flags},
        engine_);
    Args args = {{DNNL_ARG_SRC, Input(source, "x", plain, data)},
                 {DNNL_ARG_SCALE, Input(source, "gamma", channel, channel)},
                 {DNNL_ARG_SHIFT, Input(source, "beta", channel, channel)}};
    if (forward) {
      implementation_ = pd.impl_info_str();
      args[DNNL_ARG_DST] = NewOutput("y", plain, data);
      if (shape_.training) {
        args[DNNL_ARG_MEAN] = NewOutput("mean", channel, channel);
        args[DNNL_ARG_VARIANCE] = NewMemory(channel);
      } else {
        args[DNNL_ARG_MEAN] = Input(source, "running_mean", channel, channel);
        args[DNNL_ARG_VARIANCE] = Input(source, "running_var", channel, channel);
      }
      return Call(dnnl::batch_normalization_forward(pd), std::move(args));
    }
    const dnnl::batch_normalization_backward::primitive_desc backward(
        {prop_kind::backward, data, data, kEps, flags}, engine_, pd);
    implementation_ = backward.impl_info_str();
    args[DNNL_ARG_DIFF_DST] = Input(source, "dy", plain, data);
    args[DNNL_ARG_MEAN] = Input(source, "mean", channel, channel);
    memory variance = NewMemory(channel);
    auto* values = static_cast<float*>(variance.get_data_handle());
    for (int64_t c = 0; c < shape_.tensor.c; ++c) {
      const float inv_std = source.tensor("inv_std")[c];
      values[c] = 1 / (inv_std * inv_std) - kEps;
    }
    args[DNNL_ARG_VARIANCE] = variance;
    args[DNNL_ARG_DIFF_SRC] = NewOutput("dx", plain, data);
    args[DNNL_ARG_DIFF_SCALE] = NewOutput("dgamma", channel, channel);
    args[DNNL_ARG_DIFF_SHIFT] = NewOutput("dbeta", channel, channel);
    Call(dnnl::batch_normalization_backward(backward), std::move(args));
  }

  void BuildRelu(const LayerCase& source, Tag tag) {
    const Dims dims = ImageDims(shape_.tensor);
    const memory::desc plain(dims, kF32, Tag::nhwc), data(dims, kF32, tag);
    const algorithm kind = algorithm::eltwise_relu_use_dst_for_bwd;
    const dnnl::eltwise_forward::primitive_desc forward(
        {prop_kind::forward_training, kind, data, 0.0f, 0.0f}, engine_);
    if (pass_ == LayerPass::kForward) {
      implementation_ = forward.impl_info_str();
      return Call(dnnl::eltwise_forward(forward), {{DNNL_ARG_SRC, Input(source, "x", plain, data)},
                                                   {DNNL_ARG_DST, NewOutput("y", plain, data)}});
    }
    const dnnl::eltwise_backward::primitive_desc pd({kind, data, data, 0.0f, 0.0f}, engine_,
                                                    forward);
    implementation_ = pd.impl_info_str();
    Call(dnnl::eltwise_backward(pd), {{DNNL_ARG_DST, Input(source, "y", plain, data)},
                                      {DNNL_ARG_DIFF_DST, Input(source, "dy", plain, data)},
                                      {DNNL_ARG_DIFF_SRC, NewOutput("dx", plain, data)}});
  }

  void BuildPool(const LayerCase& source, Tag tag, algorithm kind, const Pool2dShape& s) {
    const Pool2dParams& p = s.params;
    BuildPooling(source, tag, kind, s.input, s.output(), {p.stride, p.stride}, {p.kernel, p.kernel},
                 {p.padding, p.padding});
  }

  void BuildPooling(const LayerCase& source, Tag tag, algorithm kind, const Shape4& in,
                    const Shape4& out, const Dims& strides, const Dims& kernel,
                    const Dims& padding) {
    const memory::desc plain_x(ImageDims(in), kF32, Tag::nhwc), x(ImageDims(in), kF32, tag);
    const memory::desc plain_y(ImageDims(out), kF32, Tag::nhwc), y(ImageDims(out), kF32, tag);
    const dnnl::pooling_forward::primitive_desc forward(
        {prop_kind::forward_training, kind, x, y, strides, kernel, padding, padding}, engine_);
    const bool has_workspace = kind == algorithm::pooling_max;
    if (pass_ == LayerPass::kForward) {
      implementation_ = forward.impl_info_str();
      Args args = {{DNNL_ARG_SRC, Input(source, "x", plain_x, x)},
                   {DNNL_ARG_DST, NewOutput("y", plain_y, y)}};
      if (has_workspace) args[DNNL_ARG_WORKSPACE] = NewMemory(forward.workspace_desc());
      return Call(dnnl::pooling_forward(forward), std::move(args));
    }
    const dnnl::pooling_backward::primitive_desc pd({kind, x, y, strides, kernel, padding, padding},
                                                    engine_, forward);
    implementation_ = pd.impl_info_str();
    Args args = {{DNNL_ARG_DIFF_DST, Input(source, "dy", plain_y, y)},
                 {DNNL_ARG_DIFF_SRC, NewOutput("dx", plain_x, x)}};
    if (has_workspace) {
      // The winners, as a forward pass over the same numbers leaves them.
      memory winners = NewMemory(forward.workspace_desc());
      dnnl::pooling_forward(forward).execute(stream_,
                                             {{DNNL_ARG_SRC, Input(source, "x", plain_x, x)},
                                              {DNNL_ARG_DST, NewMemory(y)},
                                              {DNNL_ARG_WORKSPACE, winners}});
      stream_.wait();
      args[DNNL_ARG_WORKSPACE] = winners;
    }
    Call(dnnl::pooling_backward(pd), std::move(args));
  }

  void BuildAdd(const LayerCase& source, Tag tag) {
    const Dims dims = ImageDims(shape_.tensor);
    const memory::desc plain(dims, kF32, Tag::nhwc), data(dims, kF32, tag);
    if (pass_ == LayerPass::kForward) {
      const dnnl::binary::primitive_desc pd({algorithm::binary_add, data, data, data}, engine_);
      implementation_ = pd.impl_info_str();
      return Call(dnnl::binary(pd), {{DNNL_ARG_SRC_0, Input(source, "x0", plain, data)},
                                     {DNNL_ARG_SRC_1, Input(source, "x1", plain, data)},
                                     {DNNL_ARG_DST, NewOutput("y", plain, data)}});
    }
    // Both inputs get the whole gradient: two copies.
    const memory dy = Input(source, "dy", plain, data);
    for (const char* name : {"dx0", "dx1"}) Copy(dy, NewOutput(name, plain, data));
  }

  void BuildConcat(const LayerCase& source, Tag tag) {
    const ConcatShape& s = shape_.concat;
    const memory::desc plain_y(ImageDims(s.output()), kF32, Tag::nhwc);
    const memory::desc y(ImageDims(s.output()), kF32, tag);
    const bool forward = pass_ == LayerPass::kForward;
    const memory dy = forward ? memory() : Input(source, "dy", plain_y, y);
    std::vector<memory::desc> descs;
    Args args;
    int64_t offset = 0;
    for (size_t i = 0; i < s.channels.size(); ++i) {
      const Dims dims = ImageDims(s.input(i));
      const memory::desc plain(dims, kF32, Tag::nhwc), data(dims, kF32, tag);
      if (forward) {
        descs.push_back(data);
        args[DNNL_ARG_MULTIPLE_SRC + static_cast<int>(i)] =
            Input(source, absl::StrCat("x", i).c_str(), plain, data);
      } else {
        // A slice of the gradient, copied.
        const memory slice(y.submemory_desc(dims, {0, offset, 0, 0}), engine_,
                           dy.get_data_handle());
        Copy(slice, NewOutput(absl::StrCat("dx", i), plain, data));
        offset += s.channels[i];
      }
    }
    if (!forward) return;
    const dnnl::concat::primitive_desc pd(y, /*concat_dimension=*/1, descs, engine_);
    implementation_ = pd.impl_info_str();
    args[DNNL_ARG_DST] = NewOutput("y", plain_y, y);
    Call(dnnl::concat(pd), std::move(args));
  }

  void Copy(const memory& from, const memory& to) {
    const dnnl::reorder::primitive_desc pd(engine_, from.get_desc(), engine_, to.get_desc());
    implementation_ = pd.impl_info_str();
    Call(dnnl::reorder(pd), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  }

  LayerShape shape_;
  LayerPass pass_;
  bool automatic_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<std::pair<dnnl::primitive, Args>> calls_;
  std::vector<Output> outputs_;
  std::string implementation_;
};

}  // namespace

bool OneDnnHas(LayerKind kind) {
  return kind != LayerKind::kDropout && kind != LayerKind::kCrossEntropy;
}

void LimitOneDnn(const std::string& target) {
  if (target == "avx2") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
  if (target == "scalar" || target == "emu128") dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
}

void SettleOneDnnThreads() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

absl::StatusOr<std::unique_ptr<OneDnnCase>> OneDnnCase::Create(const LayerCase& source,
                                                               bool automatic, int num_threads) {
  CNN_CHECK(OneDnnHas(source.shape().kind), LayerKindName(source.shape().kind));
  omp_set_num_threads(num_threads);
  try {
    auto result = std::make_unique<PrimitiveCase>(source, automatic);
    result->Build(source);
    return std::unique_ptr<OneDnnCase>(std::move(result));
  } catch (const std::exception& e) {  // dnnl::error is one
    return absl::UnimplementedError(absl::StrCat(
        "oneDNN cannot do ", LayerKindName(source.shape().kind), "_", LayerPassName(source.pass()),
        " of ", source.shape().ToString(), ": ", e.what()));
  }
}

}  // namespace classicnn
