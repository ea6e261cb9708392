// SIMD vocabulary: `vf` is a register of W floats, `vm` a mask over its lanes, `vi` W 32-bit integers.
//
// Arithmetic uses the compiler's own vector operators, which GCC and Clang define for the intrinsic types as well.
// Only what those operators express badly (masks, min/max, horizontal work) is written once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ltgs {
namespace {

#define LTGS_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)

constexpr int W = 16;
constexpr const char* kIsaName = "avx512";
using vf = __m512;
using vm = __mmask16;
typedef int32_t vi __attribute__((vector_size(64)));

LTGS_INLINE vf splat(float x) { return _mm512_set1_ps(x); }
LTGS_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
LTGS_INLINE void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
LTGS_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
LTGS_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
LTGS_INLINE vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
LTGS_INLINE vf vround(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LTGS_INLINE vm less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
LTGS_INLINE vm less_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
LTGS_INLINE vm both(vm a, vm b) { return static_cast<vm>(a & b); }
LTGS_INLINE vm but_not(vm a, vm b) { return static_cast<vm>(a & ~b); }
LTGS_INLINE bool any(vm m) { return m != 0; }
LTGS_INLINE unsigned bits(vm m) { return m; }
LTGS_INLINE vf select(vm m, vf yes, vf no) { return _mm512_mask_mov_ps(no, m, yes); }
LTGS_INLINE vf keep(vm m, vf v) { return _mm512_maskz_mov_ps(m, v); }
LTGS_INLINE vf keep_not(vm m, vf v) { return _mm512_maskz_mov_ps(static_cast<vm>(~m), v); }
LTGS_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
LTGS_INLINE vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
LTGS_INLINE vf negative(vf a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }

#elif defined(__AVX2__)

constexpr int W = 8;
constexpr const char* kIsaName = "avx2";
using vf = __m256;
typedef int32_t vi __attribute__((vector_size(32)));
using vm = __m256;

LTGS_INLINE vf splat(float x) { return _mm256_set1_ps(x); }
LTGS_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
LTGS_INLINE void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
LTGS_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
LTGS_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
LTGS_INLINE vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
LTGS_INLINE vf vround(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LTGS_INLINE vm less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
LTGS_INLINE vm less_equal(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
LTGS_INLINE vm both(vm a, vm b) { return _mm256_and_ps(a, b); }
LTGS_INLINE vm but_not(vm a, vm b) { return _mm256_andnot_ps(b, a); }
LTGS_INLINE unsigned bits(vm m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
LTGS_INLINE bool any(vm m) { return _mm256_movemask_ps(m) != 0; }
LTGS_INLINE vf select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
LTGS_INLINE vf keep(vm m, vf v) { return _mm256_and_ps(m, v); }
LTGS_INLINE vf keep_not(vm m, vf v) { return _mm256_andnot_ps(m, v); }
LTGS_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
LTGS_INLINE vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
LTGS_INLINE vf negative(vf a) { return _mm256_or_ps(a, _mm256_set1_ps(-0.0f)); }

#else  // any 128-bit machine: SSE2, NEON, or scalar code the compiler makes of it

constexpr int W = 4;
constexpr const char* kIsaName = "baseline";
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
using vm = vi;

LTGS_INLINE vf splat(float x) { return vf{x, x, x, x}; }
LTGS_INLINE vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LTGS_INLINE void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
LTGS_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
LTGS_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
LTGS_INLINE vf vsqrt(vf a) { return vf{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])}; }
// Adding and subtracting 1.5 * 2^23 rounds any |a| < 2^22 to the nearest integer.
LTGS_INLINE vf vround(vf a) { return (a + splat(12582912.0f)) - splat(12582912.0f); }
LTGS_INLINE vm less(vf a, vf b) { return a < b; }
LTGS_INLINE vm less_equal(vf a, vf b) { return a <= b; }
LTGS_INLINE vm both(vm a, vm b) { return a & b; }
LTGS_INLINE vm but_not(vm a, vm b) { return a & ~b; }
LTGS_INLINE unsigned bits(vm m) {
  return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
}
LTGS_INLINE bool any(vm m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
LTGS_INLINE vf select(vm m, vf yes, vf no) { return m ? yes : no; }
LTGS_INLINE vf keep(vm m, vf v) { return (vf)(m & (vi)v); }
LTGS_INLINE vf keep_not(vm m, vf v) { return (vf)(~m & (vi)v); }
LTGS_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
LTGS_INLINE vf fnma(vf a, vf b, vf c) { return c - a * b; }
LTGS_INLINE vf negative(vf a) { return (vf)((vi)a | (vi)splat(-0.0f)); }

#endif

// Eight floats from each of W places, transposed: field k of place i goes to out[k * stride + i].
#if defined(__AVX2__)
LTGS_INLINE void transpose8(const float* const* from, float* out, int64_t stride) {
  for (int i = 0; i < W; i += 8) {
    __m256 r[8], s[8];
    for (int k = 0; k < 8; ++k) r[k] = _mm256_loadu_ps(from[i + k]);
    for (int k = 0; k < 8; k += 2) {
      s[k] = _mm256_unpacklo_ps(r[k], r[k + 1]);
      s[k + 1] = _mm256_unpackhi_ps(r[k], r[k + 1]);
    }
    for (int k = 0; k < 8; k += 4) {
      r[k] = _mm256_shuffle_ps(s[k], s[k + 2], 0x44), r[k + 1] = _mm256_shuffle_ps(s[k], s[k + 2], 0xee);
      r[k + 2] = _mm256_shuffle_ps(s[k + 1], s[k + 3], 0x44), r[k + 3] = _mm256_shuffle_ps(s[k + 1], s[k + 3], 0xee);
    }
    for (int k = 0; k < 4; ++k) {
      _mm256_storeu_ps(out + k * stride + i, _mm256_permute2f128_ps(r[k], r[k + 4], 0x20));
      _mm256_storeu_ps(out + (k + 4) * stride + i, _mm256_permute2f128_ps(r[k], r[k + 4], 0x31));
    }
  }
}
#else
LTGS_INLINE void transpose8(const float* const* from, float* out, int64_t stride) {
  for (int i = 0; i < W; ++i)
    for (int k = 0; k < 8; ++k) out[k * stride + i] = from[i][k];
}
#endif

constexpr float kLog2e = 1.44269504f;

LTGS_INLINE vi isplat(int32_t x) { return vi{} + x; }
LTGS_INLINE vi to_int(vf v) { return __builtin_convertvector(v, vi); }
LTGS_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
LTGS_INLINE vf lane_numbers() {
  alignas(64) float n[W];
  for (int i = 0; i < W; ++i) n[i] = static_cast<float>(i);
  return load(n);
}

// Degree-5 minimax polynomial of 2^f on [-0.5, 0.5]; its relative error of 7.5e-8 is below float rounding.
constexpr float kExp2[6] = {1.0000001192092896f,  0.6931469440460205f,   0.24022120237350464f,
                            5.550713092088699e-2f, 9.675541892647743e-3f, 1.3276472454890609e-3f};
LTGS_INLINE vf exp2_fraction(vf f) {
  const vf f2 = f * f;
  const vf low = fma(splat(kExp2[1]), f, splat(kExp2[0])), mid = fma(splat(kExp2[3]), f, splat(kExp2[2]));
  const vf high = fma(splat(kExp2[5]), f, splat(kExp2[4]));
  return fma(fma(high, f2, mid), f2, low);
}

// 2^x for |x| < 126. The magic constant leaves round(x) in the low mantissa bits, ready to be added to the exponent.
LTGS_INLINE vf vexp2(vf x) {
  const vf magic = splat(12582912.0f);
  const vf shifted = x + magic;
  const vf p = exp2_fraction(x - (shifted - magic));
  return (vf)((vi)p + ((vi)shifted << 23));
}

// e^x, saturating near the ends of the float range; ln 2 is split in two so that large |x| keep full precision.
LTGS_INLINE vf vexp(vf x) {
  x = vmin(vmax(x, splat(-87.0f)), splat(87.0f));
  const vf n = vround(x * splat(kLog2e));
  const vf r = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
  const vf p = exp2_fraction(r * splat(kLog2e));
  return (vf)((vi)p + (to_int(n) << 23));
}

// ln(x) for positive normal x: mantissa in [sqrt(1/2), sqrt(2)), then the odd series of artanh (error < 4e-10).
LTGS_INLINE vf vlog(vf x) {
  const vi half = isplat(0x3f3504f3);  // the bit pattern of sqrt(1/2)
  const vi offset = (vi)x - half;
  const vf exponent = to_float(offset >> 23);
  const vf m = (vf)((offset & isplat(0x007fffff)) + half);
  const vf s = (m - splat(1.0f)) / (m + splat(1.0f));
  const vf s2 = s * s;
  vf p = splat(2.0f / 9.0f);
  p = p * s2 + splat(2.0f / 7.0f);
  p = p * s2 + splat(2.0f / 5.0f);
  p = p * s2 + splat(2.0f / 3.0f);
  p = p * s2 + splat(2.0f);
  return p * s + exponent * splat(0.69314718f);
}

// Lanes whose value is neither infinite nor NaN.
LTGS_INLINE vm finite(vf v) { return less_equal(v - v, splat(0.0f)); }

LTGS_INLINE vf finite_or_zero(vf v) { return keep(finite(v), v); }

// Horizontal sums of registers, always added in the same order.
#if defined(__AVX2__)
#if defined(__AVX512F__)
LTGS_INLINE __m256 half_sum(vf v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
#else
LTGS_INLINE __m256 half_sum(vf v) { return v; }
#endif
LTGS_INLINE float sum(vf v) {
  const __m256 h = half_sum(v);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
LTGS_INLINE void sum8(const vf* v, float* out) {
  __m256 h[8], pairs[4], quads[2];
  for (int k = 0; k < 8; ++k) h[k] = half_sum(v[k]);
  for (int k = 0; k < 4; ++k)  // lanes of two registers interleaved: half of them added
    pairs[k] = _mm256_add_ps(_mm256_unpacklo_ps(h[2 * k], h[2 * k + 1]), _mm256_unpackhi_ps(h[2 * k], h[2 * k + 1]));
  for (int k = 0; k < 2; ++k)
    quads[k] = _mm256_add_ps(_mm256_shuffle_ps(pairs[2 * k], pairs[2 * k + 1], 0x44), _mm256_shuffle_ps(pairs[2 * k], pairs[2 * k + 1], 0xee));
  const __m256 low = _mm256_permute2f128_ps(quads[0], quads[1], 0x20), high = _mm256_permute2f128_ps(quads[0], quads[1], 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}
#else
LTGS_INLINE float sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
LTGS_INLINE void sum8(const vf* v, float* out) {
  for (int k = 0; k < 8; ++k) out[k] = sum(v[k]);
}
#endif

// Four floats at once regardless of W, for the three colour channels of one Gaussian (the fourth lane is padding).
typedef float quad __attribute__((vector_size(16)));
LTGS_INLINE quad load_quad(const float* p) {
  quad v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LTGS_INLINE void store_quad(float* p, quad v) { std::memcpy(p, &v, sizeof v); }

}  // namespace
}  // namespace ltgs
