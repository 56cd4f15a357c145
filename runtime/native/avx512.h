// AVX-512 with VNNI: 16 lanes.
#pragma once
#include <immintrin.h>

#include "panels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

namespace avx512 {

using Floats = __m512;
using Ints = __m512i;  // or bytes

inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats load(const float* values) { return _mm512_loadu_ps(values); }

inline Floats load_halves(const uint8_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

inline Floats load_bytes(const uint8_t* bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
}

inline void store(float* target, Floats values, int count) {
  _mm512_mask_storeu_ps(target, __mmask16((1u << count) - 1), values);
}

inline Floats magnitude(Floats values) { return _mm512_abs_ps(values); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline float largest(Floats values) { return _mm512_reduce_max_ps(values); }
inline float total(Floats values) { return _mm512_reduce_add_ps(values); }
inline int32_t total(Ints values) { return _mm512_reduce_add_epi32(values); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints rounded(Floats values) { return _mm512_cvtps_epi32(values); }
inline Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }

inline void store_bytes(int8_t* target, Ints values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_cvtsepi32_epi8(values));
}

inline Ints load(const uint8_t* levels) { return _mm512_loadu_si512(levels); }
inline Ints low_nibbles(Ints levels) { return levels & _mm512_set1_epi8(15); }
inline Ints high_nibbles(Ints levels) { return low_nibbles(_mm512_srli_epi16(levels, 4)); }

// With `kCount` bits above nibbles, those of `above` from `place` on.
template <int kCount>
Ints with_bits_above(Ints levels, Ints above, int place) {
  for (int bit = 0; bit < kCount; bit++) {
    const __mmask64 set = _mm512_test_epi8_mask(above, _mm512_set1_epi8(char(1 << (place + bit))));
    levels = _mm512_mask_add_epi8(levels, set, levels, _mm512_set1_epi8(char(16 << bit)));
  }
  return levels;
}

inline Ints load_codebook(const uint8_t* codebook) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codebook)));
}

inline Ints look_up(Ints codebook, Ints levels) { return _mm512_shuffle_epi8(codebook, levels); }

template <typename Kind>
struct Products {
  Ints sum;

  void start(int32_t shift) { sum = _mm512_set1_epi32(shift); }
  void add(int, Ints levels, int32_t four) { sum = _mm512_dpbusd_epi32(sum, levels, _mm512_set1_epi32(four)); }
};

}  // namespace avx512

#pragma GCC pop_options
