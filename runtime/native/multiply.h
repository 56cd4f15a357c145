// The functions that `instruction_sets.h` declares for each namespace: included in it.
#include "tiles.h"

void round_rows(const Weights& weights, const float* x, int from, int to, Rounded& out) {
  const auto round = weights.shape.group == 32 ? round_row<32> : round_row<16>;
  for (int row = from; row < to; row++) round(x + size_t(row) * weights.columns, weights.zero, out.at(row), out);
}

// `from`: the first row of a block.
void multiply(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const Tiles tiles = visit_kind(weights.shape, [](auto kind) -> Tiles { return tile_of<decltype(kind)>; });
  for (int slice = first * kSlices; slice < last * kSlices; slice++)
    for (int row = from; row < to; row += kTile) {
      const int rows = std::min(kTile, to - row);
      if (rows > 1 || slice % kSlices == 0) tiles(rows)(weights, x, row, slice, y);
    }
}
