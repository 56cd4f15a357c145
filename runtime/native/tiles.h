// x rounded, and its products with panels, for one instruction set: included in the namespace of each, which says what
// its registers are and do. What a row gives depends neither on other rows nor on the instruction set, since all add up
// in the same order.

using namespace panels;

constexpr int kLanes = sizeof(Floats) / sizeof(float);
constexpr int kSlices = kPanel / kLanes;  // of a panel: a slice is what a register holds
constexpr int kTile = 6;                  // rows of x that share what was loaded of W
constexpr float kLeast = 1e-36f;          // what has a finite inverse

template <int kGroup>
void round_row(const float* x, int groups, int zero, int8_t* levels, float* scales, float* sums, int32_t* shifts) {
  constexpr int kCount = kGroup / kLanes;
  for (int group = 0; group < groups; group++, x += kGroup) {
    Floats values[kCount], peaks = all(0);
    for (int i = 0; i < kCount; i++) {
      values[i] = load(x + i * kLanes);
      peaks = larger(peaks, magnitude(values[i]));
    }
    const float most = largest(peaks);
    const Floats inverse = all(most > kLeast ? 127.0f / most : 0.0f);
    Ints sum{};
    for (int i = 0; i < kCount; i++, levels += kLanes) {
      const Ints nearest = rounded(values[i] * inverse);
      store_bytes(levels, nearest);
      sum = add(sum, nearest);
    }
    for (int half = kCount / 2; half > 0; half /= 2)
      for (int i = 0; i < half; i++) values[i] += values[i + half];
    sums[group] = total(values[0]);
    scales[group] = most / 127.0f + 0.0f * sums[group];  // what is no number stays none
    shifts[group] = -zero * total(sum);
  }
}

inline void round_rows(const Weights& weights, const float* x, int from, int to, Rounded& out) {
  const int groups = weights.num_groups();
  const auto round = weights.shape.group == 32 ? round_row<32> : round_row<16>;
  for (int row = from; row < to; row++) {
    const size_t at = size_t(row) * groups;
    round(x + size_t(row) * weights.columns, groups, weights.zero, &out.levels[size_t(row) * weights.columns],
          &out.scales[at], &out.sums[at], &out.shifts[at]);
  }
}

template <bool kHalf>
Floats load_numbers(const uint8_t* numbers) {
  return kHalf ? load_halves(numbers) : load(reinterpret_cast<const float*>(numbers));
}

// What the middle level stands for.
template <bool kHalf, bool kZeros>
Floats offsets(const uint8_t* numbers, Floats scale, Floats zero) {
  if (kZeros) return scale * (zero - load_bytes(numbers));
  const Floats offset = load_numbers<kHalf>(numbers);
  return kHalf ? fma(scale, zero, offset) : offset;
}

template <int kBits, int kFours>
[[gnu::always_inline]] inline void unpack(const uint8_t* w, Ints (&levels)[kFours]) {
  constexpr int kLoaded = kBits == 8 ? kFours : kFours / 2;
  for (int i = 0; i < kLoaded; i++) {
    levels[i] = load(w + i * kRegister);
    if (kBits == 8) continue;
    levels[i + kLoaded] = high_nibbles(levels[i]);
    levels[i] = low_nibbles(levels[i]);
  }
  if constexpr (kBits == 5 || kBits == 6) {
    const Ints above = load(w + kLoaded * kRegister);
    for (int i = 0; i < kFours; i++) levels[i] = with_bits_above<kBits - 4>(levels[i], above, i * (kBits - 4));
  }
}

// Rows `row` to `row + kRows` of x with one slice, or a row alone with all slices of a panel: so it reads W once.
template <int kBits, int kGroup, bool kOffset, bool kHalf, bool kCodebook, bool kZeros, int kRows>
void tile(const Weights& weights, const Rounded& x, int row, int slice, float* y) {
  constexpr int kAtOnce = kRows == 1 ? kSlices : 1;
  constexpr size_t kScale = kHalf ? 2 : 4, kMinimum = !kOffset ? 0 : kZeros ? 1 : kScale;  // bytes of one
  constexpr size_t kLevels = size_t(kPanel) * kGroup * kBits / 8, kNumbers = kPanel * (kScale + kMinimum);
  const int groups = weights.num_groups(), span = weights.shape.span, lane = slice % kSlices * kLanes;
  const uint8_t* w = weights.panel(slice / kSlices);
  const int8_t* levels[kRows];
  size_t at[kRows];
  Floats sum[kRows][kAtOnce];
  for (int r = 0; r < kRows; r++) {
    levels[r] = &x.levels[size_t(row + r) * weights.columns];
    at[r] = size_t(row + r) * groups;
    for (Floats& each : sum[r]) each = all(0);
  }
  const Floats zero = all(float(weights.zero));
  Ints codebook;
  if (kCodebook) codebook = load_codebook(weights.shape.codebook);
  for (int group = 0; group < groups; w += kNumbers) {
    const uint8_t *scales = w + span * kLevels, *minima = scales + kPanel * kScale;
    Floats scale[kAtOnce], offset[kAtOnce];
    for (int i = 0; i < kAtOnce; i++) {
      const int first = lane + i * kLanes;
      scale[i] = load_numbers<kHalf>(scales + first * kScale);
      if (kOffset) offset[i] = offsets<kHalf, kZeros>(minima + first * kMinimum, scale[i], zero);
    }
    for (const int end = group + span; group < end; group++, w += kLevels) {
      for (size_t ahead = 0; ahead < kLevels + kNumbers; ahead += 64)
        _mm_prefetch(reinterpret_cast<const char*>(w + 4 * (kLevels + kNumbers) + ahead), _MM_HINT_T0);
      for (int i = 0; i < kAtOnce; i++) {
        Ints q[kGroup / 4];
        unpack<kBits>(w + 4 * (lane + i * kLanes), q);
        if (kCodebook)
          for (Ints& each : q) each = look_up(codebook, each);
        for (int r = 0; r < kRows; r++) {
          const auto* fours = reinterpret_cast<const int32_t*>(levels[r] + size_t(group) * kGroup);
          const Ints product = dot<kCodebook ? 8 : kBits>(q, fours, x.shifts[at[r] + group]);
          sum[r][i] = fma(to_floats(product), scale[i] * all(x.scales[at[r] + group]), sum[r][i]);
          if (kOffset) sum[r][i] = fma(offset[i], all(x.sums[at[r] + group]), sum[r][i]);
        }
      }
    }
  }
  for (int i = 0; i < kAtOnce; i++) {
    const int first = (slice + i) * kLanes, count = std::min(kLanes, weights.rows - first);
    for (int r = 0; r < kRows; r++) store(y + size_t(row + r) * weights.rows + first, sum[r][i], count);
  }
}

using Tile = void (*)(const Weights&, const Rounded&, int, int, float*);

template <int kBits, int kGroup, bool kOffset, bool kHalf, bool kCodebook = false, bool kZeros = false>
Tile tile_of(int rows) {
#define TILE(n) tile<kBits, kGroup, kOffset, kHalf, kCodebook, kZeros, n>
  static const Tile tiles[] = {TILE(1), TILE(2), TILE(3), TILE(4), TILE(5), TILE(6)};
#undef TILE
  return tiles[rows - 1];
}

using Tiles = Tile (*)(int rows);

template <int kBits, int kGroup>
Tiles integer_tiles(const Shape& shape) {
  if (shape.has_zeros)
    return shape.is_half ? tile_of<kBits, kGroup, true, true, false, true>
                         : tile_of<kBits, kGroup, true, false, false, true>;
  return shape.is_half ? tile_of<kBits, kGroup, false, true> : tile_of<kBits, kGroup, false, false>;
}

inline Tiles tiles_of(const Shape& shape) {
  if (shape.codebook) return shape.is_half ? tile_of<4, 32, false, true, true> : tile_of<4, 32, false, false, true>;
  if (shape.has_zeros || !shape.is_offset) {
    if (shape.bits == 4) return shape.group == 32 ? integer_tiles<4, 32>(shape) : integer_tiles<4, 16>(shape);
    if (shape.bits == 8) return shape.group == 32 ? integer_tiles<8, 32>(shape) : integer_tiles<8, 16>(shape);
    return shape.bits == 5 ? tile_of<5, 32, false, true> : tile_of<6, 16, false, false>;
  }
  if (shape.is_half) return shape.bits == 4 ? tile_of<4, 32, true, true> : tile_of<5, 32, true, true>;
  if (shape.group == 16) return tile_of<4, 16, true, false>;
  return shape.bits == 4 ? tile_of<4, 32, true, false> : tile_of<5, 32, true, false>;
}

inline void multiply(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const Tiles tiles = tiles_of(weights.shape);
  for (int slice = first * kSlices; slice < last * kSlices; slice++)
    for (int row = from; row < to; row += kTile) {
      const int rows = std::min(kTile, to - row);
      if (rows > 1 || slice % kSlices == 0) tiles(rows)(weights, x, row, slice, y);
    }
}
