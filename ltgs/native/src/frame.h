// What one rendered view keeps between its forward and its backward pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace ltgs {
namespace {

constexpr int kTile = 16;             // pixels; one row of a tile is one AVX-512 register
constexpr int kTilePixels = kTile * kTile;
constexpr int kChunk = 1024;          // Gaussians per parallel task: fixed, so sums do not depend on the thread count
constexpr int kGroup = 4;             // channels composited per pass
constexpr float kBlur = 0.3f;         // px^2 added to the projected covariance (3DGS low-pass filter)
constexpr float kMaxAlpha = 0.999f;
constexpr float kMinTransmittance = 1e-4f;
constexpr float kMinAlpha = 1.0f / 255.0f;
constexpr float kLog2MinAlpha = -7.99435344f;
constexpr float kExponentScale = 0.72134752f;  // log2(e) / 2: turns a squared Mahalanobis distance into a power of two

// Memory that is never initialised and keeps its capacity, because page faults cost more than the kernels' arithmetic.
template <class T>
class Buffer {
 public:
  T* resize(size_t size) {
    if (size > capacity_) {
      const size_t wanted = size + size / 4 + 64 / sizeof(T) + 1;
      const size_t bytes = (wanted * sizeof(T) + 63) / 64 * 64;
      void* memory = std::aligned_alloc(64, bytes);
      if (!memory) throw std::bad_alloc();
      data_.reset(static_cast<T*>(memory));
      capacity_ = wanted;
    }
    size_ = size;
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t size() const { return size_; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0, capacity_ = 0;
};

struct View {
  float rotation[9], translation[3];  // cam_from_world
  float center[3];                    // camera centre in the world, -R^T t
  float fx, fy, cx, cy, near, far;
  float u_min, u_max, v_min, v_max;   // where the Jacobian stops following x/z, 30 % of half the field outside the image
  int width, height, tiles_x, tiles_y;
  int sh_degree;
  bool antialiased;
};

// A projected Gaussian, one cache line. Conic (a, b, c) and log_opacity are scaled so that
// alpha = 2^(log_opacity - (a dx^2 + 2 b dx dy + c dy^2)).
struct alignas(64) Splat {
  float x, y, a, b, c, log_opacity, det, inv_a;
  float channel[kGroup];  // r, g, b, depth
  float dy_right;         // dy (relative to the centre) where the ellipse reaches furthest right; mirrored on the left
  float dx_bottom;        // likewise dx where it reaches furthest down
  float x_extent, y_extent;
};
static_assert(sizeof(Splat) == 64, "a splat is one cache line");

struct Entry {
  uint32_t gaussian, slot;  // slot: index of this (Gaussian, tile) pair in Gaussian order
};

struct Parameters {
  const float *means, *quats, *log_scales, *opacity_logits, *sh;
  int64_t count;
  int bases;  // stored SH bases per channel
};

struct Frame {
  View view{};
  int64_t count = 0;
  Buffer<Splat> splats;             // [N], written where num_tiles > 0
  Buffer<uint32_t> num_tiles;       // [N]
  Buffer<uint32_t> first_slot;      // [N]
  std::vector<std::vector<uint32_t>> chunk_tiles;  // per chunk of Gaussians: tile ids in Gaussian order
  Buffer<uint32_t> slot_tile;       // [E] the same, concatenated
  Buffer<uint32_t> order;           // [visible] by depth, front first
  Buffer<uint64_t> sort_a, sort_b;  // scratch of the depth sort
  Buffer<uint32_t> tile_begin;      // [tiles + 1]
  Buffer<Entry> entries;            // [E] by tile, each tile front first
  Buffer<float> transmittance;      // [H, W] final T
  Buffer<float> weight_sum;         // [H, W] sum of w, when depth was asked for
  Buffer<float> depth_mean;         // [H, W] sum of w z / sum of w, likewise
  Buffer<float> records;            // [E, 6 + channels] gradient of every (Gaussian, tile) pair
  Buffer<float> extra_geometry;     // [N, 6] screen-space gradient contributed by feature passes
  Buffer<uint64_t> tile_pairs;      // [tiles] evaluated (Gaussian, pixel) pairs
  Buffer<double> chunk_pose;        // [chunks, 15]
  Buffer<uint32_t> chunk_dropped;   // [chunks]
  bool has_extra_geometry = false, with_depth = false;
  int64_t dropped = 0, visible = 0;
};

// Frames are recycled: a training loop then touches the same warm pages at every step.
class FramePool {
 public:
  std::unique_ptr<Frame> take() {
    const std::lock_guard<std::mutex> lock(guard_);
    if (idle_.empty()) return std::make_unique<Frame>();
    auto frame = std::move(idle_.back());
    idle_.pop_back();
    return frame;
  }
  void give(std::unique_ptr<Frame> frame) {
    const std::lock_guard<std::mutex> lock(guard_);
    if (idle_.size() < kKept) idle_.push_back(std::move(frame));
  }

 private:
  static constexpr size_t kKept = 2;
  std::mutex guard_;
  std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace
}  // namespace ltgs
