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
#include "queries.h"
#include "raster.h"
#include "raster_backward.h"
#include "ssim.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltgs {
namespace {

using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
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

template <class Array>
int columns(const Array& array, const char* name) {
  if (array.ndim() != 2) throw nb::value_error((std::string(name) + " has the wrong shape").c_str());
  return static_cast<int>(array.shape(1));
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

View make_view(const In& K, const In& pose, int width, int height, int sh_degree, float near, float far, float blur,
               float fitted_blur) {
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
  v.near = near, v.far = far, v.sh_degree = sh_degree, v.blur = blur, v.fitted_blur = fitted_blur;
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
                float near, float far, float blur, float fitted_blur, std::optional<Bytes> region, std::optional<In> features,
                std::optional<Out> rgb, std::optional<Out> alpha, std::optional<Out> depth, std::optional<Out> feature_image,
                Bytes visible, int threads) {
  const Parameters in = make_parameters(means, quats, log_scales, logits, sh, sh_degree);
  expect(visible, "visible", {in.count});
  const int channels = features ? columns(*features, "features") : 0;
  const Images out{pointer(rgb, "rgb", {height, width, 3}), pointer(alpha, "alpha", {height, width, 1}),
                   pointer(depth, "depth", {height, width, 1}), pointer(feature_image, "feature_image", {height, width, channels}),
                   pointer(features, "features", {in.count, channels}), channels};
  if (out.rgb && (!out.alpha || (channels && !out.features))) throw nb::value_error("rgb needs alpha, and features an image");
  const uint8_t* wanted = pointer(region, "region", {height, width});
  Session session;
  Frame& frame = session.frame();
  frame.view = make_view(K, pose, width, height, sh_degree, near, far, blur, fitted_blur);
  const nb::gil_scoped_release unlocked;
  std::fill(frame.stage_us, frame.stage_us + kStages, int64_t{0});
  StageClock clock(frame.stage_us);
  set_region(frame, wanted);
  project(in, frame, threads);
  clock.lap(kProject);
  bin(frame);
  clock.lap(kBin);
  frame.tile_pairs.resize(0);
  if (out.rgb) render_images(frame, out, threads);
  clock.lap(kRaster);
  frame.has_extra_geometry = false;
  for (int64_t i = 0; i < in.count; ++i) visible.data()[i] = frame.num_tiles[i] > 0;
  return session;
}

// Adds sum over pixels of (T alpha) gradient to out [N, width]: the gradient of features, or weighted weight sums.
void weight_sums(Session& session, In gradient, Out out, int threads) {
  Frame& frame = session.frame();
  if (gradient.ndim() != 3) throw nb::value_error("gradient has the wrong shape");
  const int width = static_cast<int>(gradient.shape(2));
  expect(gradient, "gradient", {frame.view.height, frame.view.width, width});
  expect(out, "out", {frame.count, width});
  const ImageGradients in{nullptr, nullptr, nullptr, nullptr, gradient.data(), nullptr, nullptr, width};
  const nb::gil_scoped_release unlocked;
  StageClock clock(frame.stage_us);
  differentiate_features(frame, in, out.data(), threads);
  clock.lap(kRasterBackward);
}

void top_of_pixels(Session& session, Integers ids, Out weights, int threads) {
  Frame& frame = session.frame();
  expect(ids, "ids", {frame.view.height, frame.view.width});
  expect(weights, "weights", {frame.view.height, frame.view.width});
  const nb::gil_scoped_release unlocked;
  top_contributors(frame, ids.data(), weights.data(), threads);
}

void backward(Session& session, In means, In quats, In log_scales, In logits, In sh, std::optional<In> rgb_value,
              std::optional<In> g_rgb, std::optional<In> g_alpha, std::optional<In> g_depth, std::optional<In> features,
              std::optional<In> feature_image, std::optional<In> g_features, std::optional<Out> o_means, std::optional<Out> o_quats,
              std::optional<Out> o_log_scales, std::optional<Out> o_logits, std::optional<Out> o_sh, std::optional<Out> o_pose,
              std::optional<Out> o_features, bool accumulate, int threads) {
  Frame& frame = session.frame();
  const View& view = frame.view;
  const int h = view.height, w = view.width, channels = g_features && features ? columns(*features, "features") : 0;
  const Parameters in = make_parameters(means, quats, log_scales, logits, sh, view.sh_degree);
  if (in.count != frame.count) throw nb::value_error("the number of Gaussians changed since the forward pass");
  const ImageGradients up{pointer(g_rgb, "g_rgb", {h, w, 3}), pointer(g_alpha, "g_alpha", {h, w, 1}),
                          pointer(g_depth, "g_depth", {h, w, 1}), pointer(rgb_value, "rgb_value", {h, w, 3}),
                          pointer(g_features, "g_features", {h, w, channels}),
                          channels ? pointer(feature_image, "feature_image", {h, w, channels}) : nullptr,
                          channels ? pointer(features, "features", {in.count, channels}) : nullptr, channels};
  if (!up.rgb && !up.alpha && !up.depth && !channels) throw nb::value_error("no gradient was given");
  if (up.rgb && !up.rgb_value) throw nb::value_error("rgb_value is needed with g_rgb");
  if (channels && !up.feature_image) throw nb::value_error("feature_image is needed with g_features");
  if (up.depth && !frame.with_depth) throw nb::value_error("the forward pass was run without depth");
  const ParameterGradients out{pointer(o_means, "means", {in.count, 3}),
                               pointer(o_quats, "quats", {in.count, 4}),
                               pointer(o_log_scales, "log_scales", {in.count, 3}),
                               pointer(o_logits, "opacity_logits", {in.count}),
                               pointer(o_sh, "sh", {in.count, in.bases, 3}),
                               pointer(o_pose, "pose", {3, 4}),
                               channels ? pointer(o_features, "features", {in.count, channels}) : nullptr,
                               channels,
                               accumulate};
  const nb::gil_scoped_release unlocked;
  StageClock clock(frame.stage_us);
  differentiate_images(frame, up, out.features, threads);
  clock.lap(kRasterBackward);
  unproject(in, frame, out, threads);
  clock.lap(kUnproject);
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
  nb::class_<Session>(m, "Session")
      .def("statistics", &statistics)
      .def("stage_times", &stage_times)
      .def("weight_sums", &weight_sums, "gradient"_a, "out"_a, "threads"_a)
      .def("top_contributors", &top_of_pixels, "ids"_a, "weights"_a, "threads"_a);
  m.def("recycled_tensor", &recycled_tensor, "shape"_a);
  m.def("forward", &forward, "means"_a, "quats"_a, "log_scales"_a, "opacity_logits"_a, "sh"_a, "K"_a, "cam_from_world"_a,
        "width"_a, "height"_a, "sh_degree"_a, "near"_a, "far"_a, "blur"_a, "fitted_blur"_a, "region"_a.none(), "features"_a.none(),
        "rgb"_a.none(), "alpha"_a.none(), "depth"_a.none(), "feature_image"_a.none(), "visible"_a, "threads"_a);
  m.def("backward", &backward, "session"_a, "means"_a, "quats"_a, "log_scales"_a, "opacity_logits"_a, "sh"_a,
        "rgb_value"_a.none(), "g_rgb"_a.none(), "g_alpha"_a.none(), "g_depth"_a.none(), "features"_a.none(),
        "feature_image"_a.none(), "g_features"_a.none(), "o_means"_a.none(), "o_quats"_a.none(), "o_log_scales"_a.none(),
        "o_opacity_logits"_a.none(), "o_sh"_a.none(), "o_pose"_a.none(), "o_features"_a.none(), "accumulate"_a, "threads"_a);
  m.def("ssim_forward", &ssim_forward, "a"_a, "b"_a, "images"_a, "height"_a, "width"_a, "channels"_a, "valid"_a, "map"_a.none(),
        "partials"_a.none(), "threads"_a);
  m.def("ssim_backward", &ssim_backward, "a"_a, "b"_a, "partials"_a, "g_map"_a.none(), "g_mean"_a, "images"_a, "height"_a,
        "width"_a, "channels"_a, "valid"_a, "out"_a, "threads"_a);
}
