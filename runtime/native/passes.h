// Passes over rows of logits with vectors of kLanes numbers, as many as the instruction set has: compilers take longer
// ones apart. Included by `rows.cpp` for each set.
// `count` numbers, at most kLanes, and `other` behind them.
INLINE void load(Floats& vector, const float* from, int64_t count, float other) {
  if (count < kLanes) vector = Floats{} + other;
  std::memcpy(&vector, from, count < kLanes ? 4 * count : sizeof vector);
}

INLINE void store(float* to, const Floats& vector, int64_t count) {
  std::memcpy(to, &vector, count < kLanes ? 4 * count : sizeof vector);
}

// Calls `take` with the numbers from `begin` to `end`, vector by vector, `other` behind the last: with where they begin
// and how many they are, which compilers know of all vectors but the last.
template <typename Function>
INLINE void each_vector(const float* x, int64_t begin, int64_t end, float other, Function take) {
  Floats vector;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    load(vector, x + i, kLanes, other);
    take(vector, i, kLanes);
  }
  if (i == end) return;
  load(vector, x + i, end - i, other);
  take(vector, i, end - i);
}

constexpr auto add = [](auto& a, const auto& b) INLINED { a += b; };
constexpr auto raise = [](Floats& a, const Floats& b) INLINED { a = b > a ? b : a; };

// Of all lanes, halves with halves: what `merge` leaves in its first argument.
template <typename Vector, typename Function>
INLINE auto reduced(Vector& vector, Function merge) {
  Ints lanes;
  for (int lane = 0; lane < kLanes; lane++) lanes[lane] = lane;
  for (int half = kLanes / 2; half; half /= 2) merge(vector, __builtin_shuffle(vector, lanes ^ half));
  return vector[0];
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

// The sum of e^(x - shift), and the largest of each block; all of them to `copy`, unless it is null.
template <bool kCopies>
INLINE double look_at(const float* x, int64_t count, float shift, float* copy, float* highest) {
  double sum = 0;
  for (int64_t from = 0; from < count; from += kBlock) {
    Floats sums{}, most = Floats{} - kInfinity;
    const int64_t end = std::min(count, from + kBlock);
    each_vector(x, from, end, -kInfinity, [&](Floats& each, int64_t i, int64_t size) INLINED {
      if (kCopies) store(copy + i, each, size);
      raise(most, each);
      each -= shift;
      power_of_two(each, kLog2E);
      sums += each;
    });
    sum += reduced(sums, add);
    *highest++ = reduced(most, raise);
  }
  return sum;
}

// Places, and none is less than the least of the largest of the blocks that have the largest ones.
INLINE std::vector<int64_t> largest(const float* x, int64_t count, const float* highest, int64_t num_top) {
  std::vector<int64_t> places;
  if (num_top < 1) return places;
  const int64_t num_blocks = (count + kBlock - 1) / kBlock;
  float least = -kInfinity;
  if (num_top <= num_blocks) {
    std::vector<float> sorted(highest, highest + num_blocks);
    std::nth_element(sorted.begin(), sorted.begin() + num_top - 1, sorted.end(), std::greater<>());
    least = sorted[num_top - 1];
  }
  for (int64_t from = 0; from < count; from += kBlock)
    if (highest[from / kBlock] >= least)
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
    each_vector(x, from, std::min(end, from + kBlock), 0, [&](Floats& each, int64_t i, int64_t size) INLINED {
      Floats weight;
      load(weight, weights + i, size, 0);
      if (kIsDistance) {
        each -= centre;
        each = each > 0 ? -each : each;
      }
      sum += (kOrEqual ? each >= key : each > key) ? weight : Floats{};
    });
    mass += reduced(sum, add);
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
    const int64_t end = std::min(count, from + kBlock);
    each_vector(x, from, end, -kInfinity, [&](Floats& each, int64_t i, int64_t size) INLINED {
      each -= highest;
      power_of_two(each, kLog2E / temperature);
      if (weights) store(weights + i, each, size);
      sum += each;
    });
    const float of_block = reduced(sum, add);
    mass += of_block;
    if (sums) *sums++ = of_block;
  }
  return mass;
}

// Ascending places of what is not less than `least`, up to `most`; returns how many there are, or more than `most`.
INLINE int64_t places_of(const float* x, int64_t count, float least, int64_t most, int64_t* places) {
  const std::unique_ptr<int32_t[]> found(new int32_t[most + kBlock]);
  int64_t num_found = 0;
  for (int64_t from = 0; from < count && num_found <= most; from += kBlock)
    each_vector(x, from, std::min(count, from + kBlock), -kInfinity, [&](Floats& each, int64_t i, int64_t) INLINED {
      num_found += note_places(each >= least, i, found.get() + num_found);
    });
  if (num_found <= most) std::copy_n(found.get(), num_found, places);
  return num_found;
}

// The same, of some groups.
INLINE int64_t places_of(const float* x, int64_t num_groups, int64_t group, const std::vector<int64_t>& groups,
                         int64_t num_near, float least, int64_t most, int64_t* places) {
  int64_t found = 0;
  const auto look = [&](int64_t place) {
    if (x[place] < least) return;
    if (found < most) places[found] = place;
    found++;
  };
  for (int64_t at = 0; at < num_near && found <= most; at++) {
    const int64_t i = groups[at];
    if (i >= num_groups) look(i + (group - 1) * num_groups);
    for (int64_t place = i; i < num_groups && place < group * num_groups; place += num_groups) look(place);
  }
  if (found <= most) std::sort(places, places + found);
  return found;
}

EXPORTED double PASS(overview)(const float* x, int64_t count, float* copy, float* highest) {
  constexpr double kLightest = 1e-20;  // from here on what float32 has no numbers for does not matter
  const double sum = copy ? look_at<true>(x, count, 0, copy, highest) : look_at<false>(x, count, 0, copy, highest);
  const float most = *std::max_element(highest, highest + (count + kBlock - 1) / kBlock);
  if (most <= kMost && sum >= kLightest) return std::log(sum);
  return most + std::log(look_at<false>(x, count, most, nullptr, highest));
}

// Returns how many it finds: fewer only where there is no number.
EXPORTED int64_t PASS(top)(const float* x, int64_t count, const float* highest, int64_t num_top, int64_t* top) {
  const std::vector<int64_t> places = largest(x, count, highest, num_top);
  std::copy(places.begin(), places.end(), top);
  return places.size();
}

// How many are not less than `own`. `highest`: of each block.
EXPORTED int64_t PASS(rank)(const float* x, int64_t count, const float* highest, float own) {
  int64_t ahead = 0;
  for (int64_t from = 0; from < count; from += kBlock) {
    if (highest[from / kBlock] < own) continue;
    Ints counts{};
    const int64_t end = std::min(count, from + kBlock);
    each_vector(x, from, end, kNoNumber, [&](Floats& each, int64_t, int64_t) INLINED { counts -= each >= own; });
    ahead += reduced(counts, add);
  }
  return ahead;
}

EXPORTED void PASS(weights)(const float* x, int64_t count, float highest, float temperature, float* weights,
                            float* sums) {
  weigh(x, count, highest, temperature, weights, sums);
}

EXPORTED bool PASS(is_kept_of_largest)(const float* x, const float* weights, int64_t count, const double* mass,
                                       int64_t place, double target) {
  return is_kept<false>(x, weights, count, mass, place, target, 0);
}

EXPORTED bool PASS(is_kept_of_nearest)(const float* x, const float* weights, int64_t count, const double* mass,
                                       int64_t place, double target, float centre) {
  return is_kept<true>(x, weights, count, mass, place, target, centre);
}

EXPORTED float PASS(maxima)(const float* x, int64_t count, int64_t group, float* maxima) {
  constexpr int kLines = 4;  // at once
  const int64_t num_groups = count / group, num_alone = count % group;
  Ints is_wrong{};
  std::fill_n(maxima, num_groups, -kInfinity);
  for (int64_t line = 0; line < group; line += kLines)
    each_vector(maxima, 0, num_groups, -kInfinity, [&](Floats& most, int64_t i, int64_t size) INLINED {
      for (int64_t at = line; at < std::min(group, line + kLines); at++) {
        Floats each;
        load(each, x + at * num_groups + i, size, -kInfinity);
        is_wrong |= each != each;
        raise(most, each);
      }
      store(maxima + i, most, size);
    });
  std::copy_n(x + count - num_alone, num_alone, maxima + num_groups);
  Floats highest = Floats{} - kInfinity;
  each_vector(maxima, 0, num_groups + num_alone, -kInfinity, [&](Floats& each, int64_t, int64_t) INLINED {
    is_wrong |= each != each;
    raise(highest, each);
  });
  return reduced(is_wrong, add) ? kNoNumber : reduced(highest, raise);
}

EXPORTED void PASS(mask)(const float* x, int64_t count, const uint32_t* words, float* out) {
  Ints bits;
  for (int lane = 0; lane < kLanes; lane++) bits[lane] = 1 << lane;
  each_vector(x, 0, count, 0, [&](Floats& each, int64_t i, int64_t size) INLINED {
    each = bits & int32_t(words[i / 32] >> (i % 32)) ? each : Floats{} - kInfinity;
    store(out + i, each, size);
  });
}

EXPORTED double PASS(mass_ahead)(const float* weights, int64_t count, int64_t place) {
  return mass_above<false, true>(weights, weights, 0, place, weights[place], 0) +
         mass_above<false, false>(weights, weights, place, count, weights[place], 0);
}

EXPORTED int64_t PASS(near)(const float* x, int64_t count, int64_t group, const float* maxima, float highest,
                            float least, float temperature, int64_t most, int64_t* places, float* weights, double* ends,
                            double* rest) {
  const int64_t num_groups = count / group, num_maxima = num_groups + count % group;
  std::vector<float> bounds(num_maxima);  // of what is not taken
  std::vector<int64_t> groups(num_maxima + 1);
  int64_t num_near = 0;
  for (int64_t i = 0; i < num_maxima; i++) {  // without branches
    bounds[i] = std::min(maxima[i], least);
    groups[num_near] = i;
    num_near += maxima[i] >= least;
  }
  const int64_t found = num_near > kFewGroups ? places_of(x, count, least, most, places)
                                              : places_of(x, num_groups, group, groups, num_near, least, most, places);
  if (found > most) return -1;
  for (int64_t i = 0; i < found; i++) weights[i] = x[places[i]];
  weigh(weights, found, highest, temperature, weights, nullptr);
  double mass = 0;
  for (int64_t i = 0; i < found; i++) ends[i] = mass += weights[i];
  *rest = double(group) * weigh(bounds.data(), num_groups, highest, temperature, nullptr, nullptr) +
          weigh(bounds.data() + num_groups, num_maxima - num_groups, highest, temperature, nullptr, nullptr);
  return found;
}

INLINE bool edit(const Job& job, int64_t count) {
  const int64_t* const output = job.history + job.output_start;
  const int64_t num_output = job.num_history - job.output_start;
  if (job.num_losses && !mistralrs_dry(job.edited, count, job.history + job.dry_start, job.num_history - job.dry_start,
                                       job.breakers, job.num_breakers, job.dry_at_least, job.losses, job.num_losses))
    return false;
  if (job.repetition != 1 && !mistralrs_repeat(job.edited, count, job.history + job.repeat_start,
                                               job.num_history - job.repeat_start, job.repetition))
    return false;
  if ((job.frequency != 0 || job.presence != 0) &&
      !mistralrs_count(job.edited, count, output, num_output, job.frequency, job.presence))
    return false;
  if (!are_places(job.bias_ids, job.num_biases, count)) return false;
  for (int64_t i = 0; i < job.num_biases; i++) job.edited[job.bias_ids[i]] += job.biases[i];
  return true;
}

// The first of the largest; of what is no number if there is any.
INLINE int64_t best_of(const float* x, int64_t count, float highest) {
  for (int64_t from = 0; from < count; from += kBlock) {
    Ints hits{};
    const int64_t end = std::min(count, from + kBlock);
    each_vector(x, from, end, -kInfinity, [&](Floats& each, int64_t, int64_t) INLINED { hits |= !(each < highest); });
    if (reduced(hits, add))
      for (int64_t i = from; i < end; i++)
        if (!(x[i] < highest)) return i;
  }
  return 0;
}

void work(Job& job, int64_t count) {
  constexpr int64_t kGroup = 64;                 // of `leading.Groups`
  constexpr double kFar = 14, kRounding = 1e-5;  // of `near.near_tokens`
  float* const copy = job.bitmask ? nullptr : job.edited;
  if (job.block_highest)
    job.normalizer = PASS(overview)(job.logits, count, copy, job.block_highest);
  else if (copy)
    std::copy_n(job.logits, count, copy);
  if (job.num_top) job.num_top = PASS(top)(job.logits, count, job.block_highest, job.num_top, job.top);
  for (int64_t i = 0; i < job.num_top; i++) job.top_logits[i] = job.logits[job.top[i]];
  if (job.bitmask) PASS(mask)(job.logits, count, job.bitmask, job.edited);
  job.has_failed = job.edited && !edit(job, count);
  const float* const row = job.edited ? job.edited : job.logits;
  job.highest = PASS(maxima)(row, count, kGroup, job.maxima);
  if (job.temperature == 0) job.best = best_of(row, count, job.highest);
  if (!job.most || !std::isfinite(job.highest)) return;
  const double highest = job.highest;
  job.least = highest - kFar * job.temperature - kRounding * std::abs(highest);
  job.num_near = PASS(near)(row, count, kGroup, job.maxima, job.highest, job.least, job.temperature, job.most,
                            job.places, job.weights, job.ends, &job.rest);
  if (job.num_near < 0 && job.all_weights)
    PASS(weights)(row, count, job.highest, job.temperature, job.all_weights, job.weight_sums);
}

EXPORTED void PASS(together)(Job* jobs, int64_t num_jobs, int64_t count, int64_t num_threads) {
  constexpr int64_t kEnough = 1 << 17;  // numbers, for a thread to be worth its start
  num_threads = std::min({num_threads, num_jobs, num_jobs * count / kEnough});
  std::atomic<int64_t> next{0};
  const auto work_on = [&] {
    for (int64_t i = next++; i < num_jobs; i = next++) work(jobs[i], count);
  };
  std::vector<std::thread> helpers;
  try {
    while (int64_t(helpers.size()) + 1 < num_threads) helpers.emplace_back(work_on);
  } catch (const std::system_error&) {  // there are no more threads: those that are there do all
  }
  work_on();
  for (std::thread& helper : helpers) helper.join();
}
