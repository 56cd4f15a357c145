// AVX2, with VNNI or without: 8 lanes.
#pragma once
#include <immintrin.h>

#include "panels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace eight {

using Floats = __m256;
using Ints = __m256i;  // or bytes

inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats load(const float* values) { return _mm256_loadu_ps(values); }

inline Floats load_halves(const uint8_t* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}

inline Floats load_bytes(const uint8_t* bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}

inline void store(float* target, Floats values, int count) {
  if (count >= 8) return _mm256_storeu_ps(target, values);
  const Ints lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(target, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes), values);
}

inline Floats magnitude(Floats values) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), values); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }

inline float largest(Floats values) {
  __m128 most = _mm_max_ps(_mm256_extractf128_ps(values, 1), _mm256_castps256_ps128(values));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

inline float total(Floats values) {
  __m128 sum = _mm_add_ps(_mm256_extractf128_ps(values, 1), _mm256_castps256_ps128(values));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline int32_t total(Ints values) {
  __m128i sum = _mm_add_epi32(_mm256_extracti128_si256(values, 1), _mm256_castsi256_si128(values));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, _MM_SHUFFLE(1, 0, 3, 2)));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, _MM_SHUFFLE(2, 3, 0, 1))));
}

inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints rounded(Floats values) { return _mm256_cvtps_epi32(values); }
inline Floats to_floats(Ints values) { return _mm256_cvtepi32_ps(values); }

inline void store_bytes(int8_t* target, Ints values) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packs_epi16(words, words));
}

inline Ints load(const uint8_t* levels) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels)); }
inline Ints low_nibbles(Ints levels) { return levels & _mm256_set1_epi8(15); }
inline Ints high_nibbles(Ints levels) { return low_nibbles(_mm256_srli_epi16(levels, 4)); }

// With `kCount` bits above nibbles, those of `above` from `place` on.
template <int kCount>
Ints with_bits_above(Ints levels, Ints above, int place) {
  const Ints moved = place < 4 ? _mm256_slli_epi16(above, 4 - place) : _mm256_srli_epi16(above, place - 4);
  return levels | (moved & _mm256_set1_epi8((16 << kCount) - 16));
}

inline Ints load_codebook(const uint8_t* codebook) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codebook)));
}

inline Ints look_up(Ints codebook, Ints levels) { return _mm256_shuffle_epi8(codebook, levels); }

}  // namespace eight

#pragma GCC pop_options
