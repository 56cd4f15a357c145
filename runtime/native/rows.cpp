// What the sampler does often with rows of logits: `../rows.py` says what each is for.
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define INLINED __attribute__((always_inline))
#define INLINE INLINED inline

namespace {

constexpr int64_t kBlock = 256;  // numbers added up in float32; blocks are added up in float64
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNoNumber = std::numeric_limits<float>::quiet_NaN();
constexpr float kLog2E = 1.44269504f;
constexpr int64_t kFewGroups = 100;  // looking at more of them takes longer than at all of the row
constexpr float kMost = 80;          // e to it, and the sum of a block of these, are float32

// Of each byte, which of its bits are set.
struct LanesOfBits {
  uint8_t lanes[256][8] = {};

  constexpr LanesOfBits() {
    for (int bits = 0; bits < 256; bits++)
      for (int lane = 0, at = 0; lane < 8; lane++)
        if (bits >> lane & 1) lanes[bits][at++] = lane;
  }
};

// A row of logits and what is asked for, in the order of `../sampler.py`; what is null or 0 is left out.
// `../together.py` says what each is.
struct Job {
  const float* logits;
  float* edited;
  const uint32_t* bitmask;
  float *block_highest, *maxima;
  int64_t num_top, *top;
  float* top_logits;
  // Penalties.
  const int64_t *history, *breakers, *bias_ids;
  const float *losses, *biases;
  int64_t num_history, output_start, repeat_start, dry_start, num_breakers, dry_at_least, num_losses, num_biases;
  float repetition, frequency, presence;
  // What is near.
  float temperature;
  int64_t most;
  int64_t* places;
  float* weights;
  double* ends;
  float *all_weights, *weight_sums;
  // What is found.
  double normalizer, rest;
  int64_t best, num_near;
  float highest, least;
  int32_t has_failed;
};

bool are_places(const int64_t* places, int64_t num_places, int64_t count) {
  uint64_t most = 0;  // of negative ones, too
  for (int64_t i = 0; i < num_places; i++) most = std::max(most, uint64_t(places[i]));
  return !num_places || most < uint64_t(count);
}

}  // namespace

EXPORTED bool mistralrs_repeat(float* x, int64_t count, const int64_t* seen, int64_t num_seen, float penalty) {
  if (!are_places(seen, num_seen, count)) return false;
  std::vector<float> changed(num_seen);
  for (int64_t i = 0; i < num_seen; i++) {
    const float old = x[seen[i]], smaller = old / penalty, larger = old * penalty;
    changed[i] = penalty > 1 ? std::min(smaller, larger) : std::max(smaller, larger);
  }
  for (int64_t i = 0; i < num_seen; i++) x[seen[i]] = changed[i];
  return true;
}

EXPORTED bool mistralrs_count(float* x, int64_t count, const int64_t* output, int64_t num_output, float frequency,
                              float presence) {
  if (!are_places(output, num_output, count)) return false;
  if (presence != 0) {
    std::vector<float> changed(num_output);
    for (int64_t i = 0; i < num_output; i++) changed[i] = x[output[i]] - presence;
    for (int64_t i = 0; i < num_output; i++) x[output[i]] = changed[i];
  }
  if (frequency != 0)
    for (int64_t i = 0; i < num_output; i++) x[output[i]] -= frequency;
  return true;
}

EXPORTED bool mistralrs_dry(float* x, int64_t count, const int64_t* context, int64_t num_context,
                            const int64_t* breakers, int64_t num_breakers, int64_t at_least, const float* losses,
                            int64_t num_losses) {
  if (!are_places(context, num_context, count)) return false;
  const auto breaks = [&](int64_t token) {
    return std::find(breakers, breakers + num_breakers, token) != breakers + num_breakers;
  };
  const int64_t last = num_context - 1, most = std::min(at_least + num_losses - 1, num_context);
  if (last < at_least || std::any_of(context + num_context - at_least, context + num_context, breaks)) return true;
  int64_t limit = at_least;
  while (limit < most && !breaks(context[last - limit])) limit++;
  std::vector<int64_t> ends(last);
  int64_t num_ends = 0;
  for (int64_t end = at_least - 1; end < last; end++) {  // without branches
    ends[num_ends] = end;
    num_ends += context[end] == context[last];
  }
  std::vector<std::pair<int64_t, float>> changed;
  for (int64_t i = 0; i < num_ends; i++) {
    const int64_t end = ends[i], next = context[end + 1];
    int64_t length = 0;
    while (length < limit && length <= end && context[end - length] == context[last - length]) length++;
    if (length >= at_least && !breaks(next)) changed.emplace_back(next, x[next] - losses[length - at_least]);
  }
  for (const auto& [token, logit] : changed) x[token] = std::min(x[token], logit);  // the longest costs most
  return true;
}

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define PASS(name) mistralrs_avx2_##name
namespace avx2 {

constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// Places from `first` on where the mask is set; returns how many. There must be room for kLanes.
INLINE int64_t note_places(const Ints& mask, int32_t first, int32_t* places) {
  static constexpr LanesOfBits kSet;
  const int bits = _mm256_movemask_ps(__m256(mask));
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kSet.lanes[bits]));
  _mm256_storeu_si256((__m256i*)places, _mm256_add_epi32(lanes, _mm256_set1_epi32(first)));
  return __builtin_popcount(bits);
}

#include "passes.h"

}  // namespace avx2
#undef PASS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define PASS(name) mistralrs_avx512_##name
namespace avx512 {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

INLINE int64_t note_places(const Ints& mask, int32_t first, int32_t* places) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 bits = _mm512_movepi32_mask(__m512i(mask));
  _mm512_storeu_si512(places, _mm512_maskz_compress_epi32(bits, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
  return __builtin_popcount(bits);
}

#include "passes.h"

}  // namespace avx512
#undef PASS
#pragma GCC pop_options
