// Python bindings of one instruction-set build of the kernels. Arrays are checked here; the kernels trust them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "binning.h"
#include "projection.h"
#include "projection_backward.h"
#include "raster.h"
#include "raster_backward.h"
#include "ssim.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltgs {
namespace {

using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;

template <class Array>
void expect(const Array& array, const char* name, std::initializer_list<int64_t> shape) {
  bool ok = array.ndim() == shape.size();
  size_t axis = 0;
  for (const int64_t size : shape) ok = ok && (size < 0 || static_cast<int64_t>(array.shape(axis)) == size), ++axis;
  if (!ok) throw nb::value_error((std::string(name) + " has the wrong shape").c_str());
}

template <class Array>
auto* pointer(std::optional<Array>& array, const char* name, std::initializer_list<int64_t> shape) {
  if (!array) return static_cast<decltype(array->data())>(nullptr);
  expect(*array, name, shape);
  return array->data();
}

// The pools are never destroyed: tensors and sessions may outlive every static object when the interpreter ends.
FramePool& pool() {
  static FramePool* const frames = new FramePool;
  return *frames;
}

BlockPool& blocks() {
  static BlockPool* const pool = new BlockPool;
  return *pool;
}

// An uninitialised float tensor whose memory is recycled when the last reference to it goes.
nb::ndarray<nb::pytorch, float, nb::c_contig> recycled_tensor(std::vector<size_t> shape) {
  size_t count = 1;
  for (const size_t size : shape) count *= size;
  auto block = std::make_unique<Block>(blocks().take(std::max<size_t>(count, 1) * sizeof(float)));
  float* data = static_cast<float*>(block->memory.get());
  nb::capsule owner(block.get(), [](void* p) noexcept {
    const std::unique_ptr<Block> returned(static_cast<Block*>(p));
    blocks().give(std::move(*returned));
  });
  block.release();
  return {data, shape.size(), shape.data(), owner};
}

// Owns a frame between forward and backward and hands it back to the pool when Python drops it.
class Session {
 public:
  Session() : frame_(pool().take()) {}
  Session(Session&& other) = default;
  ~Session() {
    if (frame_) pool().give(std::move(frame_));
  }
  Frame& frame() { return *frame_; }

 private:
  std::unique_ptr<Frame> frame_;
};

View make_view(const In& K, const In& pose, int width, int height, int sh_degree, float near, float far, bool antialiased) {
  expect(K, "K", {3, 3});
  expect(pose, "cam_from_world", {4, 4});
  View v{};
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) v.rotation[3 * i + j] = pose.data()[4 * i + j];
    v.translation[i] = pose.data()[4 * i + 3];
  }
  for (int j = 0; j < 3; ++j)
    v.center[j] = -(v.rotation[j] * v.translation[0] + v.rotation[3 + j] * v.translation[1] + v.rotation[6 + j] * v.translation[2]);
  v.fx = K.data()[0], v.fy = K.data()[4], v.cx = K.data()[2], v.cy = K.data()[5];
  const float margin_x = 0.15f * width / v.fx, margin_y = 0.15f * height / v.fy;
  v.u_min = -v.cx / v.fx - margin_x, v.u_max = (width - v.cx) / v.fx + margin_x;
  v.v_min = -v.cy / v.fy - margin_y, v.v_max = (height - v.cy) / v.fy + margin_y;
  v.width = width, v.height = height;
  v.tiles_x = (width + kTile - 1) / kTile, v.tiles_y = (height + kTile - 1) / kTile;
  v.near = near, v.far = far, v.sh_degree = sh_degree, v.antialiased = antialiased;
  return v;
}

Parameters make_parameters(const In& means, const In& quats, const In& log_scales, const In& logits, const In& sh, int sh_degree) {
  const auto n = static_cast<int64_t>(means.shape(0));
  expect(means, "means", {n, 3});
  expect(quats, "quats", {n, 4});
  expect(log_scales, "log_scales", {n, 3});
  expect(logits, "opacity_logits", {n});
  expect(sh, "sh", {n, -1, 3});
  const int bases = static_cast<int>(sh.shape(1));
  if (sh_degree < 0 || sh_degree > 3 || (sh_degree + 1) * (sh_degree + 1) > bases) throw nb::value_error("sh_degree exceeds the stored bands");
  return {means.data(), quats.data(), log_scales.data(), logits.data(), sh.data(), n, bases};
}

Session forward(In means, In quats, In log_scales, In logits, In sh, In K, In pose, int width, int height, int sh_degree,
                float near, float far, bool antialiased, Out rgb, Out alpha, std::optional<Out> depth, Bytes visible, int threads) {
  const Parameters in = make_parameters(means, quats, log_scales, logits, sh, sh_degree);
  expect(rgb, "rgb", {height, width, 3});
  expect(alpha, "alpha", {height, width, 1});
  expect(visible, "visible", {in.count});
  const Images out{rgb.data(), alpha.data(), pointer(depth, "depth", {height, width, 1})};
  Session session;
  Frame& frame = session.frame();
  frame.view = make_view(K, pose, width, height, sh_degree, near, far, antialiased);
  const nb::gil_scoped_release unlocked;
  std::fill(frame.stage_us, frame.stage_us + kStages, int64_t{0});
  StageClock clock(frame.stage_us);
  project(in, frame, threads);
  clock.lap(kProject);
  bin(frame);
  clock.lap(kBin);
  render_images(frame, out, threads);
  clock.lap(kRaster);
  frame.has_extra_geometry = false;
  for (int64_t i = 0; i < in.count; ++i) visible.data()[i] = frame.num_tiles[i] > 0;
  return session;
}

void forward_features(Session& session, In features, Out image, int threads) {
  Frame& frame = session.frame();
  const int width = static_cast<int>(features.shape(1));
  expect(features, "features", {frame.count, width});
  expect(image, "image", {frame.view.height, frame.view.width, width});
  const nb::gil_scoped_release unlocked;
  StageClock clock(frame.stage_us);
  render_features(frame, features.data(), width, image.data(), threads);
  clock.lap(kRaster);
}

void backward_features(Session& session, In features, In value, In gradient, std::optional<Out> out, bool geometry, int threads) {
  Frame& frame = session.frame();
  const int width = static_cast<int>(features.shape(1));
  expect(features, "features", {frame.count, width});
  expect(value, "value", {frame.view.height, frame.view.width, width});
  expect(gradient, "gradient", {frame.view.height, frame.view.width, width});
  const FeatureGradients in{features.data(), value.data(), gradient.data(), pointer(out, "out", {frame.count, width}), width};
  const nb::gil_scoped_release unlocked;
  StageClock clock(frame.stage_us);
  differentiate_features(frame, in, geometry, threads);
  clock.lap(kRasterBackward);
}

void backward(Session& session, In means, In quats, In log_scales, In logits, In sh, std::optional<In> rgb_value,
              std::optional<In> g_rgb, std::optional<In> g_alpha, std::optional<In> g_depth, std::optional<Out> o_means,
              std::optional<Out> o_quats, std::optional<Out> o_log_scales, std::optional<Out> o_logits, std::optional<Out> o_sh,
              std::optional<Out> o_pose, std::optional<Out> o_screen, bool accumulate, int threads) {
  Frame& frame = session.frame();
  const View& view = frame.view;
  const int h = view.height, w = view.width;
  const Parameters in = make_parameters(means, quats, log_scales, logits, sh, view.sh_degree);
  if (in.count != frame.count) throw nb::value_error("the number of Gaussians changed since the forward pass");
  ImageGradients up{pointer(g_rgb, "g_rgb", {h, w, 3}), pointer(g_alpha, "g_alpha", {h, w, 1}),
                    pointer(g_depth, "g_depth", {h, w, 1}), pointer(rgb_value, "rgb_value", {h, w, 3})};
  if (up.rgb && !up.rgb_value) throw nb::value_error("rgb_value is needed with g_rgb");
  if (up.depth && !frame.with_depth) throw nb::value_error("the forward pass was run without depth");
  const ParameterGradients out{pointer(o_means, "means", {in.count, 3}),
                               pointer(o_quats, "quats", {in.count, 4}),
                               pointer(o_log_scales, "log_scales", {in.count, 3}),
                               pointer(o_logits, "opacity_logits", {in.count}),
                               pointer(o_sh, "sh", {in.count, in.bases, 3}),
                               pointer(o_pose, "pose", {3, 4}),
                               pointer(o_screen, "screen", {in.count}),
                               accumulate};
  const nb::gil_scoped_release unlocked;
  StageClock clock(frame.stage_us);
  const int channels = up.rgb || up.alpha || up.depth ? differentiate_images(frame, up, threads) : 0;
  clock.lap(kRasterBackward);
  unproject(in, frame, channels, out, threads);
  clock.lap(kUnproject);
  frame.has_extra_geometry = false;
}

nb::dict statistics(Session& session) {
  const Frame& frame = session.frame();
  uint64_t pairs = 0;
  for (size_t i = 0; i < frame.tile_pairs.size(); ++i) pairs += frame.tile_pairs[i];
  nb::dict out;
  out["num_dropped"] = frame.dropped;
  out["num_visible"] = frame.visible;
  out["num_entries"] = static_cast<int64_t>(frame.pairs());
  out["num_pairs"] = pairs;
  return out;
}

nb::dict stage_times(Session& session) {
  nb::dict out;
  for (int stage = 0; stage < kStages; ++stage) out[kStageNames[stage]] = session.frame().stage_us[stage];
  return out;
}

double ssim_forward(In a, In b, int images, int height, int width, int channels, bool valid, std::optional<Out> map,
                    std::optional<Out> partials, int threads) {
  expect(a, "a", {images, height, width, channels});
  expect(b, "b", {images, height, width, channels});
  const SsimShape shape{images, height, width, channels, valid};
  const nb::gil_scoped_release unlocked;
  return ssim_values(shape, a.data(), b.data(), map ? map->data() : nullptr, partials ? partials->data() : nullptr, threads);
}

void ssim_backward(In a, In b, In partials, std::optional<In> g_map, float g_mean, int images, int height, int width, int channels,
                   bool valid, Out out, int threads) {
  expect(a, "a", {images, height, width, channels});
  expect(out, "out", {images, height, width, channels});
  const SsimShape shape{images, height, width, channels, valid};
  const nb::gil_scoped_release unlocked;
  ssim_gradient(shape, a.data(), b.data(), partials.data(), g_map ? g_map->data() : nullptr, g_mean, out.data(), threads);
}

}  // namespace
}  // namespace ltgs

NB_MODULE(LTGS_MODULE, m) {
  using namespace ltgs;
  // An autograd graph that is still referenced when the interpreter ends keeps its Session alive; that is no leak worth
  // a warning to the user. That sessions die with their graph is tested instead.
  nb::set_leak_warnings(false);
  m.attr("isa") = kIsaName;
  m.attr("lanes") = W;
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  nb::class_<Session>(m, "Session").def("statistics", &statistics).def("stage_times", &stage_times);
  m.def("recycled_tensor", &recycled_tensor, "shape"_a);
  m.def("forward", &forward, "means"_a, "quats"_a, "log_scales"_a, "opacity_logits"_a, "sh"_a, "K"_a, "cam_from_world"_a,
        "width"_a, "height"_a, "sh_degree"_a, "near"_a, "far"_a, "antialiased"_a, "rgb"_a, "alpha"_a, "depth"_a.none(),
        "visible"_a, "threads"_a);
  m.def("forward_features", &forward_features, "session"_a, "features"_a, "image"_a, "threads"_a);
  m.def("backward_features", &backward_features, "session"_a, "features"_a, "value"_a, "gradient"_a, "out"_a.none(),
        "geometry"_a, "threads"_a);
  m.def("backward", &backward, "session"_a, "means"_a, "quats"_a, "log_scales"_a, "opacity_logits"_a, "sh"_a,
        "rgb_value"_a.none(), "g_rgb"_a.none(), "g_alpha"_a.none(), "g_depth"_a.none(), "o_means"_a.none(), "o_quats"_a.none(),
        "o_log_scales"_a.none(), "o_opacity_logits"_a.none(), "o_sh"_a.none(), "o_pose"_a.none(), "o_screen"_a.none(),
        "accumulate"_a, "threads"_a);
  m.def("ssim_forward", &ssim_forward, "a"_a, "b"_a, "images"_a, "height"_a, "width"_a, "channels"_a, "valid"_a, "map"_a.none(),
        "partials"_a.none(), "threads"_a);
  m.def("ssim_backward", &ssim_backward, "a"_a, "b"_a, "partials"_a, "g_map"_a.none(), "g_mean"_a, "images"_a, "height"_a,
        "width"_a, "channels"_a, "valid"_a, "out"_a, "threads"_a);
}
