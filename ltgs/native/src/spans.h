// Rows of pixels between the planes of a tile and interleaved images.
#pragma once

#include "tile.h"

namespace ltgs {
namespace {

// kCols pixels of an interleaved r g b image from three planes, `stride` floats apart, and back.
#if defined(__AVX2__)
static_assert(kCols == 8, "");
// Within a half register four pixels are A = r0 g0 b0 r1, B = g1 b1 r2 g2, C = b2 r3 g3 b3; the other half holds the next four.
LTGS_INLINE void interleave3(const float* planes, int stride, float* image) {
  const __m256 r = _mm256_loadu_ps(planes), g = _mm256_loadu_ps(planes + stride), b = _mm256_loadu_ps(planes + 2 * stride);
  const __m256 rg = _mm256_shuffle_ps(r, g, _MM_SHUFFLE(2, 0, 2, 0));  // r0 r2 g0 g2
  const __m256 gb = _mm256_shuffle_ps(g, b, _MM_SHUFFLE(3, 1, 3, 1));  // g1 g3 b1 b3
  const __m256 br = _mm256_shuffle_ps(b, r, _MM_SHUFFLE(3, 1, 2, 0));  // b0 b2 r1 r3
  const __m256 A = _mm256_shuffle_ps(rg, br, _MM_SHUFFLE(2, 0, 2, 0)), B = _mm256_shuffle_ps(gb, rg, _MM_SHUFFLE(3, 1, 2, 0));
  const __m256 C = _mm256_shuffle_ps(br, gb, _MM_SHUFFLE(3, 1, 3, 1));
  _mm256_storeu_ps(image, _mm256_permute2f128_ps(A, B, 0x20));
  _mm256_storeu_ps(image + 8, _mm256_permute2f128_ps(C, A, 0x30));
  _mm256_storeu_ps(image + 16, _mm256_permute2f128_ps(B, C, 0x31));
}
LTGS_INLINE void deinterleave3(const float* image, float* planes, int stride) {
  const __m256 first = _mm256_loadu_ps(image), second = _mm256_loadu_ps(image + 8), third = _mm256_loadu_ps(image + 16);
  const __m256 A = _mm256_permute2f128_ps(first, second, 0x30), B = _mm256_permute2f128_ps(first, third, 0x21);
  const __m256 C = _mm256_permute2f128_ps(second, third, 0x30);
  const __m256 rg = _mm256_shuffle_ps(B, C, _MM_SHUFFLE(2, 1, 3, 2));  // r2 g2 r3 g3
  const __m256 gb = _mm256_shuffle_ps(A, B, _MM_SHUFFLE(1, 0, 2, 1));  // g0 b0 g1 b1
  _mm256_storeu_ps(planes, _mm256_shuffle_ps(A, rg, _MM_SHUFFLE(2, 0, 3, 0)));
  _mm256_storeu_ps(planes + stride, _mm256_shuffle_ps(gb, rg, _MM_SHUFFLE(3, 1, 2, 0)));
  _mm256_storeu_ps(planes + 2 * stride, _mm256_shuffle_ps(gb, C, _MM_SHUFFLE(3, 0, 3, 1)));
}
#else
LTGS_INLINE void interleave3(const float* planes, int stride, float* image) {
  for (int i = 0; i < kCols; ++i)
    for (int k = 0; k < 3; ++k) image[3 * i + k] = planes[k * stride + i];
}
LTGS_INLINE void deinterleave3(const float* image, float* planes, int stride) {
  for (int i = 0; i < kCols; ++i)
    for (int k = 0; k < 3; ++k) planes[k * stride + i] = image[3 * i + k];
}
#endif

// One span: `count` pixels, at most kCols. Where it is cut by the edge of the image the rest of the planes becomes zero.
LTGS_INLINE void write_rgb(const float* planes, int stride, int count, float* image) {
  if (count == kCols) return interleave3(planes, stride, image);
  float whole[3 * kCols];
  interleave3(planes, stride, whole);
  std::copy(whole, whole + 3 * count, image);
}
LTGS_INLINE void read_rgb(const float* image, int count, float* planes, int stride) {
  if (count == kCols) return deinterleave3(image, planes, stride);
  float whole[3 * kCols] = {};
  std::copy(image, image + 3 * count, whole);
  deinterleave3(whole, planes, stride);
}

// Fetch the pixels of the tile after this one: its rows lie too far apart for the processor to foresee them.
template <bool kForWriting>
LTGS_INLINE void prefetch_next_tile(const View& view, int tile, const float* image, int channels) {
  if (tile + 1 == view.tiles_x * view.tiles_y) return;
  const TilePlace at = place_of(view, tile + 1);
  for (int row = 0; row < at.rows; ++row) {
    const float* first = image + channels * (static_cast<int64_t>(at.y + row) * view.width + at.x);
    for (int i = 0; i < channels * at.columns; i += 16) __builtin_prefetch(first + i, kForWriting);
  }
}

// Copy `width` planes of a tile into an image of `stride` channels, at channel `offset`.
LTGS_INLINE void write_planes(const View& view, const TilePlace& at, const float* planes, int width, float* image, int64_t stride, int offset) {
  for_each_span(view, at, [&](int pixel, int64_t to, int count) {
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < width; ++k) image[(to + i) * stride + offset + k] = planes[k * kTilePixels + pixel + i];
  });
}

}  // namespace
}  // namespace ltgs
