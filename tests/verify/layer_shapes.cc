#include "core/check.h"
#include "core/random.h"
#include "tests/verify/layer_checks.h"

namespace classicnn::verify {
namespace {

std::vector<LayerShape> ParseAll(LayerKind kind, const std::vector<const char*>& texts) {
  std::vector<LayerShape> shapes;
  for (const char* text : texts) {
    const absl::StatusOr<LayerShape> shape = LayerShape::Parse(kind, text);
    CNN_CHECK(shape.ok(), shape.status().ToString());
    shapes.push_back(*shape);
  }
  return shapes;
}

// Numbers drawn one after the other.
class Draw {
 public:
  Draw(uint64_t seed, LayerKind kind) : stream_(seed, LayerKindName(kind)) {}
  int64_t From(int64_t low, int64_t high) {
    return low +
           static_cast<int64_t>(stream_.Below(next_++, static_cast<uint64_t>(high - low + 1)));
  }

 private:
  RandomStream stream_;
  uint64_t next_ = 0;
};

LayerShape RandomShape(LayerKind kind, Draw& draw) {
  LayerShape shape;
  shape.kind = kind;
  shape.tensor = {draw.From(1, 3), draw.From(2, 12), draw.From(2, 12), draw.From(1, 70)};
  switch (kind) {
    case LayerKind::kConv2d: {
      Conv2dShape& s = shape.conv2d;
      s.n = draw.From(1, 3);
      s.kernel = draw.From(1, 7);
      s.stride = draw.From(1, 2);
      s.padding = draw.From(0, s.kernel / 2);
      s.h = s.kernel + draw.From(0, 9);
      s.w = s.kernel + draw.From(0, 9);
      s.groups = draw.From(0, 2) == 0 ? draw.From(2, 5) : 1;
      s.in_channels = s.groups * draw.From(1, 40 / s.groups);
      s.out_channels = s.groups * draw.From(1, 40 / s.groups);
      CNN_CHECK(s.Validate().ok(), s.Validate().ToString());
      break;
    }
    case LayerKind::kLinear:
    case LayerKind::kCrossEntropy:
      shape.linear = {draw.From(1, 9), draw.From(2, 70), draw.From(1, 40)};
      break;
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d: {
      Pool2dParams& p = shape.pool.params;
      p.kernel = draw.From(1, 5);
      p.stride = draw.From(1, 3);
      p.padding = draw.From(0, p.kernel / 2);
      shape.pool.input = shape.tensor;
      shape.pool.input.h += p.kernel;
      shape.pool.input.w += p.kernel;
      CNN_CHECK(shape.pool.Validate().ok(), shape.pool.Validate().ToString());
      break;
    }
    case LayerKind::kConcat:
      shape.concat = {shape.tensor.n,
                      shape.tensor.h,
                      shape.tensor.w,
                      {draw.From(1, 40), draw.From(1, 40), draw.From(1, 40)}};
      break;
    case LayerKind::kBatchNorm2d:
      shape.training = draw.From(0, 1) == 1;
      break;
    default:
      break;
  }
  return shape;
}

std::vector<const char*> FixedShapes(LayerKind kind) {
  switch (kind) {
    case LayerKind::kConv2d:
      return {"n1c1h1w1k1r1s1p0",      "n2c3h5w7k10r1s1p0",    "n2c33h6w5k17r1s2p0",
              "n1c5h4w3k7r2s1p1",      "n2c3h9w6k16r3s1p0",    "n2c16h7w9k24r3s1p1",
              "n1c24h8w8k3r3s2p1",     "n2c17h5w6k33r3s1p1",   "n1c7h6w9k5r4s2p2",
              "n2c16h9w7k10r5s1p2",    "n1c3h11w8k9r5s2p2",    "n1c4h8w9k6r6s1p3",
              "n1c3h14w13k20r7s2p3",   "n2c5h9w8k3r7s1p2",     "n2c21h6w9k21r3s1p1g21",
              "n1c32h7w5k32r3s2p1g32", "n2c9h8w7k9r5s1p2g9",   "n1c6h5w5k12r3s1p1g6",
              "n2c12h6w5k18r3s1p1g3",  "n3c130h3w2k67r3s1p1",  "n1c64h2w2k64r3s1p1",
              "n2c1h6w6k1r3s1p1",      "n1c15h13w17k31r3s1p1", "n3c17h7w5k17r7s2p3g17"};
    case LayerKind::kLinear:
      return {"n1c1k1", "n3c37k11", "n2c512k10", "n7c16k33", "n5c100k1"};
    case LayerKind::kCrossEntropy:
      return {"n1c2", "n3c7", "n5c10", "n4c100", "n2c1000"};
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return {"n1c1h2w2r2s2p0", "n2c3h5w7r2s2p0",  "n2c17h8w6r3s2p1", "n1c33h5w5r3s1p1",
              "n1c5h7w9r3s3p0", "n2c10h6w5r2s1p1", "n1c16h9w9r5s2p2"};
    case LayerKind::kConcat:
      return {"n1c1+1h1w1", "n2c3+17+8h5w4", "n2c16+33h3w6", "n1c5+7+9+11h4w4"};
    case LayerKind::kBatchNorm2d:
      return {"n2c1h3w3m1", "n3c17h5w4m1", "n2c33h2w2m1", "n1c100h7w3m1", "n8c10h1w1m1",
              "n2c1h3w3m0", "n3c17h5w4m0", "n2c33h2w2m0", "n1c100h1w1m0"};
    default:
      return {"n1c3h2w5", "n2c17h5w3", "n3c33h4w4", "n2c100h7w1", "n1c16h8w8"};
  }
}

}  // namespace

std::vector<LayerShape> OddShapes(LayerKind kind, uint64_t seed) {
  std::vector<LayerShape> shapes = ParseAll(kind, FixedShapes(kind));
  Draw draw(seed, kind);
  const int random = kind == LayerKind::kConv2d ? 16 : 4;
  for (int i = 0; i < random; ++i) {
    const LayerShape shape = RandomShape(kind, draw);
    bool known = false;
    for (const LayerShape& other : shapes) known = known || other == shape;
    if (!known) shapes.push_back(shape);
  }
  return shapes;
}

std::vector<LayerShape> TinyShapes(LayerKind kind) {
  switch (kind) {
    case LayerKind::kConv2d:
      return ParseAll(kind, {"n2c3h4w3k2r1s1p0", "n2c2h5w4k3r3s1p1", "n1c3h6w5k2r3s2p1",
                             "n1c2h5w6k3r5s2p2", "n2c4h4w5k6r3s1p1g2", "n2c3h5w4k3r3s2p1g3"});
    case LayerKind::kLinear:
      return ParseAll(kind, {"n3c5k4", "n1c7k2"});
    case LayerKind::kCrossEntropy:
      return ParseAll(kind, {"n3c5", "n1c2"});
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return ParseAll(kind, {"n2c3h4w6r2s2p0", "n1c2h5w7r3s2p1", "n1c2h5w4r3s1p1"});
    case LayerKind::kConcat:
      return ParseAll(kind, {"n2c3+1+2h2w3"});
    case LayerKind::kBatchNorm2d:
      return ParseAll(kind, {"n2c3h3w4m1", "n5c2h1w1m1", "n2c3h3w4m0"});
    default:
      return ParseAll(kind, {"n2c3h3w4"});
  }
}

}  // namespace classicnn::verify
