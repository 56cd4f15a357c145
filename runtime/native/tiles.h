// x rounded, and its products with panels, for one instruction set: included in the namespace of each, which says what
// its registers are and do. What a row gives depends neither on other rows nor on the instruction set, since all add up
// in the same order.

using namespace panels;

constexpr int kLanes = sizeof(Floats) / sizeof(float);
constexpr int kSlices = kPanel / kLanes;  // of a panel: a slice is what a register holds
constexpr int kTile = 8;                  // rows of x that share what was loaded of W
constexpr float kLeast = 1e-36f;          // what has a finite inverse

template <int kGroup>
void round_row(const float* x, int zero, size_t at, Rounded& out) {
  constexpr int kCount = kGroup / kLanes;
  for (int group = 0; group < out.groups; group++, x += kGroup, at += out.block) {
    Floats values[kCount], peaks = all(0);
    for (int i = 0; i < kCount; i++) {
      values[i] = load(x + i * kLanes);
      peaks = larger(peaks, magnitude(values[i]));
    }
    const float most = largest(peaks);
    const Floats inverse = all(most > kLeast ? 127.0f / most : 0.0f);
    Ints sum{};
    for (int i = 0; i < kCount; i++) {
      const Ints nearest = rounded(values[i] * inverse);
      store_bytes(&out.levels[at * kGroup + i * kLanes], nearest);
      sum = add(sum, nearest);
    }
    for (int half = kCount / 2; half > 0; half /= 2)
      for (int i = 0; i < half; i++) values[i] += values[i + half];
    out.sums[at] = total(values[0]);
    out.scales[at] = most / 127.0f + 0.0f * out.sums[at];  // what is no number stays none
    out.shifts[at] = -zero * total(sum);
  }
}

template <size_t kAhead, size_t kBytes>
void prefetch(const uint8_t* w) {
  for (size_t i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(w + kAhead + i), _MM_HINT_T0);
}

// Of the rows of a panel from `lane` on: scales, and what the middle level stands for.
template <typename Kind>
Floats scales(const uint8_t* numbers, int lane) {
  return Kind::kHalf ? load_halves(numbers + 2 * lane) : load(reinterpret_cast<const float*>(numbers) + lane);
}

template <typename Kind>
Floats offsets(const uint8_t* numbers, int lane, Floats scale, Floats zero) {
  const uint8_t* minima = numbers + Kind::kScales;
  if (!Kind::kOffset) return scale;
  if (Kind::kZeros) return scale * (zero - load_bytes(minima + lane));
  const Floats offset = scales<Kind>(minima, lane);
  return Kind::kHalf ? fma(scale, zero, offset) : offset;
}

template <typename Kind>
Ints codebook_of(const Weights& weights) {
  return Kind::kCodebook ? load_codebook(weights.shape.codebook) : Ints{};
}

// Columns 4 · i to 4 · i + 4 of a group, of the rows of a panel that `w` begins with.
template <typename Kind>
Ints level(const uint8_t* w, int i, Ints codebook) {
  constexpr int kBits = Kind::kBits, kLoaded = Kind::kFours / 2, kAbove = kBits - 4;
  if (kBits == 8) return load(w + kRegister * i);
  const Ints loaded = load(w + kRegister * (i % kLoaded));
  const Ints nibbles = i < kLoaded ? low_nibbles(loaded) : high_nibbles(loaded);
  if (kAbove) return with_bits_above<kAbove>(nibbles, load(w + kRegister * kLoaded), i * kAbove);
  return Kind::kCodebook ? look_up(codebook, nibbles) : nibbles;
}

// Rows `row` to `row + kRows` of x, all of a block, with one slice; a row alone with all slices of a panel, so that it
// reads W once. Row after row within four columns, so that products do not wait for each other.
template <typename Kind, int kRows>
void tile(const Weights& weights, const Rounded& x, int row, int slice, float* y) {
  constexpr int kGroup = Kind::kGroup, kAtOnce = kRows == 1 ? kSlices : 1;
  constexpr size_t kBytes = Kind::kLevels + Kind::kNumbers;
  const int groups = weights.num_groups(), span = weights.shape.span, lane = slice % kSlices * kLanes;
  const uint8_t* w = weights.panel(slice / kSlices);
  size_t at = x.at(row);
  Floats sum[kAtOnce][kRows];
#pragma GCC unroll 8
  for (int s = 0; s < kAtOnce; s++)
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) sum[s][r] = all(0);
  const Floats zero = all(float(weights.zero));
  const Ints codebook = codebook_of<Kind>(weights);
  for (int group = 0; group < groups; w += Kind::kNumbers) {
    const uint8_t* numbers = w + span * Kind::kLevels;
    Floats scale[kAtOnce], offset[kAtOnce];
#pragma GCC unroll 8
    for (int s = 0; s < kAtOnce; s++) {
      scale[s] = scales<Kind>(numbers, lane + s * kLanes);
      offset[s] = offsets<Kind>(numbers, lane + s * kLanes, scale[s], zero);
    }
    for (const int end = group + span; group < end; group++, w += Kind::kLevels, at += x.block) {
      prefetch<4 * kBytes, kBytes>(w);
      const auto* fours = reinterpret_cast<const int32_t*>(&x.levels[at * kGroup]);
#pragma GCC unroll 8
      for (int s = 0; s < kAtOnce; s++) {
        Products<Kind> products[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) products[r].start(x.shifts[at + r]);
#pragma GCC unroll 8
        for (int i = 0; i < Kind::kFours; i++) {
          const Ints q = level<Kind>(w + 4 * (lane + s * kLanes), i, codebook);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; r++) products[r].add(i, q, fours[r * Kind::kFours + i]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
          sum[s][r] = fma(to_floats(products[r].sum), scale[s] * all(x.scales[at + r]), sum[s][r]);
          if (Kind::kOffset) sum[s][r] = fma(offset[s], all(x.sums[at + r]), sum[s][r]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < kAtOnce; s++) {
    const int first = (slice + s) * kLanes, count = std::min(kLanes, weights.rows - first);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) store(y + size_t(row + r) * weights.rows + first, sum[s][r], count);
  }
}

using Tile = void (*)(const Weights&, const Rounded&, int, int, float*);
using Tiles = Tile (*)(int rows);

template <typename Kind>
Tile tile_of(int rows) {
#define TILE(n) tile<Kind, n>
  static const Tile tiles[] = {TILE(1), TILE(2), TILE(3), TILE(4), TILE(5), TILE(6), TILE(7), TILE(8)};
#undef TILE
  return tiles[rows - 1];
}
