// Passes over rows of logits for the sampler: `../rows.py` says what each is for. They are compiled for each of the
// instruction sets that VERSIONS names, and the one runs that suits the processor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#ifndef VERSIONS
#define VERSIONS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#define EXPORTED extern "C" __attribute__((visibility("default")))
#define INLINE __attribute__((always_inline)) inline

namespace {

constexpr int kLanes = 16;
constexpr int64_t kBlock = 256;  // numbers added up in float32; blocks are added up in float64
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;
constexpr float kMost = 80;  // e to it, and the sum of a block of these, are float32

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// `count` numbers, at most kLanes, and `other` behind them.
INLINE void load(Floats& vector, const float* from, int64_t count, float other) {
  if (count >= kLanes) {
    std::memcpy(&vector, from, sizeof vector);
  } else {
    vector = Floats{} + other;
    std::memcpy(&vector, from, 4 * count);
  }
}

INLINE void store(float* to, const Floats& vector, int64_t count) {
  if (count >= kLanes)
    std::memcpy(to, &vector, sizeof vector);
  else
    std::memcpy(to, &vector, 4 * count);
}

// Of all lanes, halves with halves.
template <typename Vector, typename Function>
INLINE auto reduced(const Vector& vector, Function function) {
  std::remove_reference_t<decltype(vector[0])> lanes[kLanes];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = function(lanes[i], lanes[i + half]);
  return lanes[0];
}

INLINE float sum_of(const Floats& vector) {
  return reduced(vector, [](float a, float b) __attribute__((always_inline)) { return a + b; });
}

INLINE float highest_of(const Floats& vector) {
  return reduced(vector, [](float a, float b) __attribute__((always_inline)) { return a > b ? a : b; });
}

// 2^(x · factor) for what is below 2^128, 0 where it is no normal number; relative errors are 2e-7, and 6e-8 more for
// each unit of the exponent where x · factor is rounded. The polynomial has the least greatest error for |r| <= 1/2.
INLINE void power_of_two(Floats& x, float factor) {
  constexpr float kRounder = 12582912;  // 1.5 · 2^23: a sum with it is rounded, to an integer in its last bits
  const Floats rounded = x * factor + kRounder, exponent = rounded - kRounder, r = x * factor - exponent;
  Floats power = r * 0.001326473f + 0.009671513f;
  for (const float coefficient : {0.055507337f, 0.240222421f, 0.693146978f, 1.0f}) power = power * r + coefficient;
  Ints bits, shift;  // the last bits of what is no number are 0 in `rounded`
  std::memcpy(&bits, &power, sizeof bits);
  std::memcpy(&shift, &rounded, sizeof shift);
  bits += shift << 23;
  std::memcpy(&power, &bits, sizeof power);
  x = exponent < -126 ? Floats{} : power;
}

// Sums of exponentials and the largest number, block by block.
struct Row {
  std::vector<float> sums, highest;

  double total() const { return std::accumulate(sums.begin(), sums.end(), 0.0); }
  float most() const { return *std::max_element(highest.begin(), highest.end()); }
};

VERSIONS void look_at(Row& row, const float* x, int64_t count, float shift) {
  for (int64_t from = 0; from < count; from += kBlock) {
    Floats sum{}, highest = Floats{} - kInfinity;
    for (int64_t i = from; i < std::min(count, from + kBlock); i += kLanes) {
      Floats each;
      load(each, x + i, count - i, -kInfinity);
      highest = each > highest ? each : highest;
      each -= shift;
      power_of_two(each, kLog2E);
      sum += each;
    }
    row.sums[from / kBlock] = sum_of(sum);
    row.highest[from / kBlock] = highest_of(highest);
  }
}

// How many are not less than `own`.
VERSIONS int64_t num_ahead(const float* x, int64_t count, float own) {
  int64_t ahead = 0;
  for (int64_t i = 0; i < count; i++) ahead += x[i] >= own;
  return ahead;
}

// None is less than the least of the largest of the blocks that have the largest ones.
std::vector<int64_t> largest(const Row& row, const float* x, int64_t count, int64_t num_top) {
  std::vector<int64_t> places;
  if (num_top < 1) return places;
  float least = -kInfinity;
  if (num_top <= int64_t(row.highest.size())) {
    std::vector<float> highest = row.highest;
    std::nth_element(highest.begin(), highest.begin() + num_top - 1, highest.end(), std::greater<>());
    least = highest[num_top - 1];
  }
  for (int64_t from = 0; from < count; from += kBlock)
    if (row.highest[from / kBlock] >= least)
      for (int64_t place = from; place < std::min(count, from + kBlock); place++)
        if (x[place] >= least) places.push_back(place);
  const auto goes_first = [x](int64_t a, int64_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
  num_top = std::min<int64_t>(num_top, places.size());
  std::partial_sort(places.begin(), places.begin() + num_top, places.end(), goes_first);
  places.resize(num_top);
  return places;
}

// Of the weights whose keys are above `key`, or with `kOrEqual` not below it. Keys are numbers, or with `kIsDistance`
// how near they are to the centre.
template <bool kIsDistance, bool kOrEqual>
INLINE double mass_above(const float* x, const float* weights, int64_t begin, int64_t end, float key, float centre) {
  double mass = 0;
  for (int64_t from = begin; from < end; from += kBlock) {
    Floats sum{};
    for (int64_t i = from; i < std::min(end, from + kBlock); i += kLanes) {
      Floats each, weight;
      load(each, x + i, end - i, 0);
      load(weight, weights + i, end - i, 0);
      if (kIsDistance) {
        each -= centre;
        each = each > 0 ? -each : each;
      }
      sum += (kOrEqual ? each >= key : each > key) ? weight : Floats{};
    }
    mass += sum_of(sum);
  }
  return mass;
}

// Whether what goes before a place, of equals the first, has less than `target`. `mass`: of the weights up to the end
// of each block. Ends where the rest cannot change it.
template <bool kIsDistance>
INLINE bool is_kept(const float* x, const float* weights, int64_t count, const double* mass, int64_t place,
                    double target, float centre) {
  const float key = kIsDistance ? -std::abs(x[place] - centre) : x[place];
  const double total = mass[(count - 1) / kBlock];
  double before = 0;
  for (int64_t from = 0; from < count; from += kBlock) {
    const int64_t end = std::min(count, from + kBlock), split = std::clamp(place, from, end);
    before += mass_above<kIsDistance, true>(x, weights, from, split, key, centre) +
              mass_above<kIsDistance, false>(x, weights, split, end, key, centre);
    if (before >= target || before + (total - mass[from / kBlock]) < target) break;
  }
  return before < target;
}

// The sum of e^((x - highest) / temperature); each of them, and those of blocks, unless `weights` or `sums` are null.
INLINE double weigh(const float* x, int64_t count, float highest, float temperature, float* weights, float* sums) {
  double mass = 0;
  for (int64_t from = 0; from < count; from += kBlock) {
    Floats sum{};
    for (int64_t i = from; i < std::min(count, from + kBlock); i += kLanes) {
      Floats each;
      load(each, x + i, count - i, -kInfinity);
      each -= highest;
      power_of_two(each, kLog2E / temperature);
      if (weights) store(weights + i, each, count - i);
      sum += each;
    }
    const float of_block = sum_of(sum);
    mass += of_block;
    if (sums) *sums++ = of_block;
  }
  return mass;
}

}  // namespace

EXPORTED double mistralrs_scores(const float* x, int64_t count, float own, int64_t num_top, int64_t* top,
                                 int64_t* rank) {
  constexpr double kLightest = 1e-20;  // from here on what float32 has no numbers for does not matter
  const size_t num_blocks = (count + kBlock - 1) / kBlock;
  Row row{std::vector<float>(num_blocks), std::vector<float>(num_blocks)};
  float shift = 0;
  look_at(row, x, count, shift);
  if (row.most() > kMost || row.total() < kLightest) {
    shift = row.most();
    look_at(row, x, count, shift);
  }
  const std::vector<int64_t> places = largest(row, x, count, num_top);
  std::copy(places.begin(), places.end(), top);
  *rank = !places.empty() && own > x[places.back()]
              ? std::count_if(places.begin(), places.end(), [=](int64_t place) { return x[place] >= own; })
              : num_ahead(x, count, own);
  return shift + std::log(row.total());
}

EXPORTED VERSIONS void mistralrs_weights(const float* x, int64_t count, float highest, float temperature,
                                         float* weights, float* sums) {
  weigh(x, count, highest, temperature, weights, sums);
}

EXPORTED VERSIONS bool mistralrs_is_kept_of_largest(const float* x, const float* weights, int64_t count,
                                                    const double* mass, int64_t place, double target) {
  return is_kept<false>(x, weights, count, mass, place, target, 0);
}

EXPORTED VERSIONS bool mistralrs_is_kept_of_nearest(const float* x, const float* weights, int64_t count,
                                                    const double* mass, int64_t place, double target, float centre) {
  return is_kept<true>(x, weights, count, mass, place, target, centre);
}

EXPORTED VERSIONS void mistralrs_mask(const float* x, int64_t count, const uint32_t* words, float* out) {
  Ints bits;
  for (int lane = 0; lane < kLanes; lane++) bits[lane] = 1 << lane;
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats each;
    load(each, x + i, count - i, 0);
    each = bits & int32_t(words[i / 32] >> (i % 32)) ? each : Floats{} - kInfinity;
    store(out + i, each, count - i);
  }
}

EXPORTED VERSIONS int64_t mistralrs_near(const float* x, int64_t count, int64_t group, const float* maxima, float least,
                                         float temperature, int64_t most, int64_t* places, float* weights,
                                         double* masses) {
  const int64_t num_groups = count / group, num_maxima = num_groups + count % group;
  int64_t found = 0;
  const auto take = [&](int64_t place) {
    if (found < most) places[found] = place;
    found++;
  };
  float highest = -kInfinity;
  std::vector<float> bounds(maxima, maxima + num_maxima);  // of what is not taken
  for (int64_t i = 0; i < num_maxima && found <= most; i++) {
    highest = std::max(highest, maxima[i]);
    if (maxima[i] < least) continue;
    bounds[i] = least;
    if (i >= num_groups) take(i + (group - 1) * num_groups);
    for (int64_t place = i; i < num_groups && place < group * num_groups; place += num_groups)
      if (x[place] >= least) take(place);
  }
  if (found > most) return -1;
  std::sort(places, places + found);
  for (int64_t i = 0; i < found; i++) weights[i] = x[places[i]];
  masses[0] = weigh(weights, found, highest, temperature, weights, nullptr);
  masses[1] = double(group) * weigh(bounds.data(), num_groups, highest, temperature, nullptr, nullptr) +
              weigh(bounds.data() + num_groups, num_maxima - num_groups, highest, temperature, nullptr, nullptr);
  return found;
}

EXPORTED int64_t mistralrs_repetitions(const int64_t* context, int64_t count, const int64_t* breakers,
                                       int64_t num_breakers, int64_t at_least, int64_t most, int64_t* next,
                                       int64_t* lengths) {
  const auto breaks = [&](int64_t token) {
    return std::find(breakers, breakers + num_breakers, token) != breakers + num_breakers;
  };
  const int64_t last = count - 1;
  if (count <= at_least || std::any_of(context + count - at_least, context + count, breaks)) return 0;
  int64_t limit = at_least;
  while (limit < std::min(most, count) && !breaks(context[last - limit])) limit++;
  int64_t found = 0;
  for (int64_t end = at_least - 1; end < last; end++) {
    int64_t length = 0;
    while (length < limit && length <= end && context[end - length] == context[last - length]) length++;
    if (length < at_least || breaks(context[end + 1])) continue;
    next[found] = context[end + 1];
    lengths[found++] = length;
  }
  return found;
}
