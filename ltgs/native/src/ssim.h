// Structural similarity with an 11-tap Gaussian window (sigma 1.5), forward and gradient, without stored moment maps.
//
// Images are interleaved [images, height, width, channels]; a pixel row is filtered as one long array whose taps lie
// `channels` floats apart, so no channel has to be separated. Outside the image everything counts as zero.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace ltgs {
namespace {

constexpr int kReach = 5;  // taps on each side
constexpr float kWindow[kReach + 1] = {0.26601174f, 0.21300554f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};
constexpr float kSsimC1 = 0.01f * 0.01f, kSsimC2 = 0.03f * 0.03f;
constexpr int kBandRows = 16;  // image rows per parallel task

struct SsimShape {
  int images, height, width, channels;
  bool valid;  // only windows that lie inside the image count
  int64_t row() const { return static_cast<int64_t>(width) * channels; }
  int64_t size() const { return row() * height * images; }
  int border() const { return valid ? kReach : 0; }
};

// `count` floats from p, the rest zero: the last register of a row must not read past the end of the image.
LTGS_INLINE vf load_part(const float* p, int64_t count) {
  if (count >= W) return load(p);
  alignas(64) float lane[W] = {};
  std::memcpy(lane, p, static_cast<size_t>(std::max<int64_t>(count, 0)) * sizeof(float));
  return load(lane);
}
LTGS_INLINE void store_part(float* p, vf v, int64_t count) {
  if (count >= W) return store(p, v);
  alignas(64) float lane[W];
  store(lane, v);
  std::memcpy(p, lane, static_cast<size_t>(count) * sizeof(float));
}

// One task's scratch: `planes` filtered rows with zero margins of kReach pixels, and a row of zeros for y outside.
class Scratch {
 public:
  Scratch(const SsimShape& shape, int planes)
      : margin_(kReach * shape.channels), stride_(shape.row() + 2 * margin_ + 2 * W), data_(stride_ * planes), zeros_(shape.row()) {}
  float* plane(int k) { return data_.data() + stride_ * k; }          // starts with the left margin
  float* inside(int k) { return plane(k) + margin_; }
  const float* zeros() const { return zeros_.data(); }

 private:
  int64_t margin_, stride_;
  std::vector<float> data_, zeros_;
};

LTGS_INLINE const float* row_or_zero(const float* image, int y, const SsimShape& s, const Scratch& scratch) {
  return y < 0 || y >= s.height ? scratch.zeros() : image + s.row() * y;
}

LTGS_INLINE vf filter_along(const float* p, int channels) {
  vf total = splat(kWindow[0]) * load(p + kReach * channels);
  for (int k = 1; k <= kReach; ++k)
    total += splat(kWindow[k]) * (load(p + (kReach - k) * channels) + load(p + (kReach + k) * channels));
  return total;
}

// Vertical filter of a, b, a^2, b^2 and ab around row y of one image.
LTGS_INLINE void filter_moments(const SsimShape& s, const float* a, const float* b, int y, Scratch& scratch) {
  const float *ra[2 * kReach + 1], *rb[2 * kReach + 1];
  for (int k = -kReach; k <= kReach; ++k) {
    ra[k + kReach] = row_or_zero(a, y + k, s, scratch);
    rb[k + kReach] = row_or_zero(b, y + k, s, scratch);
  }
  const int64_t n = s.row();
  for (int64_t x = 0; x < n; x += W) {
    const vf va = load_part(ra[kReach] + x, n - x), vb = load_part(rb[kReach] + x, n - x);
    vf w = splat(kWindow[0]);
    vf ea = w * va, eb = w * vb, eaa = ea * va, ebb = eb * vb, eab = ea * vb;
    for (int k = 1; k <= kReach; ++k) {
      const vf a0 = load_part(ra[kReach - k] + x, n - x), a1 = load_part(ra[kReach + k] + x, n - x);
      const vf b0 = load_part(rb[kReach - k] + x, n - x), b1 = load_part(rb[kReach + k] + x, n - x);
      w = splat(kWindow[k]);
      ea += w * (a0 + a1);
      eb += w * (b0 + b1);
      eaa += w * (a0 * a0 + a1 * a1);
      ebb += w * (b0 * b0 + b1 * b1);
      eab += w * (a0 * b0 + a1 * b1);
    }
    store_part(scratch.inside(0) + x, ea, n - x);
    store_part(scratch.inside(1) + x, eb, n - x);
    store_part(scratch.inside(2) + x, eaa, n - x);
    store_part(scratch.inside(3) + x, ebb, n - x);
    store_part(scratch.inside(4) + x, eab, n - x);
  }
}

// SSIM and its derivatives with respect to the filtered a, a^2 and ab.
struct SsimTerms {
  vf value, d_mean, d_square, d_product;
};

LTGS_INLINE SsimTerms ssim_terms(vf mu_a, vf mu_b, vf aa, vf bb, vf ab) {
  const vf two = splat(2.0f), c1 = splat(kSsimC1), c2 = splat(kSsimC2);
  const vf mab = mu_a * mu_b, maa = mu_a * mu_a, mbb = mu_b * mu_b;
  const vf A1 = two * mab + c1, A2 = two * (ab - mab) + c2, B1 = maa + mbb + c1, B2 = (aa - maa) + (bb - mbb) + c2;
  const vf inv = splat(1.0f) / (B1 * B2);
  SsimTerms t;
  t.value = A1 * A2 * inv;
  t.d_product = two * A1 * inv;
  t.d_square = splat(0.0f) - t.value * B1 * inv;
  t.d_mean = two * mu_b * A2 * inv - two * mu_a * t.value * B2 * inv - two * mu_a * t.d_square - mu_b * t.d_product;
  return t;
}

// One output row; `partials` (may be null) points at this row in the first of three maps of `map_size` floats.
LTGS_INLINE double ssim_row(const SsimShape& s, Scratch& scratch, float* map, float* partials, int64_t map_size) {
  const int64_t n = s.row(), skip = static_cast<int64_t>(s.border()) * s.channels;
  const vf lanes = lane_numbers();
  double total = 0.0;
  for (int64_t x = 0; x < n; x += W) {
    vf f[5];
    for (int k = 0; k < 5; ++k) f[k] = filter_along(scratch.plane(k) + x, s.channels);
    SsimTerms t = ssim_terms(f[0], f[1], f[2], f[3], f[4]);
    const vf at = lanes + splat(static_cast<float>(x));
    const vm inside = both(less_equal(splat(static_cast<float>(skip)), at), less(at, splat(static_cast<float>(n - skip))));
    t.value = keep(inside, t.value);
    total += sum(t.value);
    if (map) store_part(map + x, t.value, n - x);
    if (!partials) continue;
    store_part(partials + x, keep(inside, t.d_mean), n - x);
    store_part(partials + map_size + x, keep(inside, t.d_square), n - x);
    store_part(partials + 2 * map_size + x, keep(inside, t.d_product), n - x);
  }
  return total;
}

// Sum of the SSIM map, with the map [images, H, W, C] and its three partial derivatives if wanted.
inline double ssim_values(const SsimShape& s, const float* a, const float* b, float* map, float* partials, int threads) {
  const int bands = (s.height + kBandRows - 1) / kBandRows;
  std::vector<double> rows(static_cast<size_t>(s.images) * s.height, 0.0);
  parallel_for(static_cast<int64_t>(s.images) * bands, threads, [&](int64_t task) {
    const int64_t image = task / bands, offset = image * s.row() * s.height;
    const int first = static_cast<int>(task % bands) * kBandRows;
    Scratch scratch(s, 5);
    for (int y = first; y < std::min(s.height, first + kBandRows); ++y) {
      const int64_t at = offset + s.row() * y;
      if (y < s.border() || y >= s.height - s.border()) {
        if (map) std::fill(map + at, map + at + s.row(), 0.0f);
        for (int k = 0; partials && k < 3; ++k) std::fill(partials + k * s.size() + at, partials + k * s.size() + at + s.row(), 0.0f);
        continue;
      }
      filter_moments(s, a + offset, b + offset, y, scratch);
      rows[image * s.height + y] = ssim_row(s, scratch, map ? map + at : nullptr, partials ? partials + at : nullptr, s.size());
    }
  });
  double total = 0.0;
  for (const double row : rows) total += row;
  return total;
}

// dL/da for dL/dmap = g_mean + g_map (g_map may be null); the window is symmetric, so filtering is its own transpose.
inline void ssim_gradient(const SsimShape& s, const float* a, const float* b, const float* partials, const float* g_map, float g_mean,
                          float* out, int threads) {
  const int bands = (s.height + kBandRows - 1) / kBandRows;
  const int64_t n = s.row(), size = s.size();
  parallel_for(static_cast<int64_t>(s.images) * bands, threads, [&](int64_t task) {
    const int64_t offset = task / bands * n * s.height;
    const int first = static_cast<int>(task % bands) * kBandRows;
    Scratch scratch(s, 3);
    for (int y = first; y < std::min(s.height, first + kBandRows); ++y) {
      for (int64_t x = 0; x < n; x += W) {
        vf total[3] = {};
        for (int k = std::max(-kReach, -y); k <= std::min(kReach, s.height - 1 - y); ++k) {
          const int64_t at = offset + n * (y + k) + x;
          vf weight = splat(kWindow[k < 0 ? -k : k]);
          weight = weight * (g_map ? splat(g_mean) + load_part(g_map + at, n - x) : splat(g_mean));
          for (int p = 0; p < 3; ++p) total[p] += weight * load_part(partials + p * size + at, n - x);
        }
        for (int p = 0; p < 3; ++p) store_part(scratch.inside(p) + x, total[p], n - x);
      }
      const int64_t row = offset + n * y;
      for (int64_t x = 0; x < n; x += W) {
        const vf va = load_part(a + row + x, n - x), vb = load_part(b + row + x, n - x);
        const vf gradient = filter_along(scratch.plane(0) + x, s.channels) +
                            splat(2.0f) * va * filter_along(scratch.plane(1) + x, s.channels) +
                            vb * filter_along(scratch.plane(2) + x, s.channels);
        store_part(out + row + x, gradient, n - x);
      }
    }
  });
}

}  // namespace
}  // namespace ltgs
