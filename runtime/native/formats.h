// What the planes of a block format hold, one block at a time: small integers q, scales and minima, w = d · (q - zero)
// + m.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ort_abi.h"

namespace formats {

inline float widened(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  uint32_t bits = (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00) bits += 112u << 23;  // infinite or no number
  float value;
  if (magnitude < 0x400) {  // subnormal: magnitude · 2^-24
    value = float(magnitude) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Plane {
  ort::ElementType type;
  size_t per_block;  // elements

  size_t bytes() const { return per_block * (type == ort::kFloat ? 4 : type == ort::kFloat16 ? 2 : 1); }  // of a block
};

using Bytes = const uint8_t*;
using Halves = const uint16_t*;

struct Format;

// One block of a row: a pointer into each plane.
struct Block {
  const Format* format;
  const void* planes[5];
  Bytes bytes(size_t plane) const { return static_cast<Bytes>(planes[plane]); }
  uint16_t half(size_t plane) const { return *static_cast<Halves>(planes[plane]); }
};

// Levels of `columns` weights, and for each `group` of them a scale and a minimum, as halves or as floats, or a zero
// point.
struct Levels {
  uint8_t q[256];
  uint8_t zero;
  uint16_t half_scale, half_minimum;
  float scale[16], minimum[16];
};

struct Format {
  const char* name;  // of the operator
  size_t num_planes;
  Plane planes[5];
  int columns;     // of a block
  int group;       // columns that share a scale
  int bits;        // that a level takes where kernels read it
  int zero;        // the level in the middle
  bool is_offset;  // whether there are minima; the middle level then stands for minimum + scale · zero
  bool is_half;    // whether scales and minima are halves in the file
  void (*read)(const Block&, Levels&);
  const uint8_t* codebook;  // 16 levels that 4 bits choose from, or null
  bool has_zeros = false;   // whether minima are told by zero points: -scale · point
};

inline void nibbles_together(Bytes packed, int count, uint8_t* q) {
  for (int i = 0; i < count; i++) q[2 * i] = packed[i] & 15, q[2 * i + 1] = packed[i] >> 4;
}

inline void nibbles_apart(Bytes packed, int count, uint8_t* q) {
  for (int i = 0; i < count; i++) q[i] = packed[i] & 15, q[i + count] = packed[i] >> 4;
}

inline void five_bits(Bytes low, Bytes high, uint8_t* q) {
  nibbles_apart(low, 16, q);
  for (int i = 0; i < 32; i++) q[i] |= (high[i / 8] >> (i % 8) & 1) << 4;
}

inline void read_q4_0(const Block& block, Levels& out) {
  nibbles_together(block.bytes(0), 16, out.q);
  out.half_scale = block.half(1);
}

inline void read_q4_1(const Block& block, Levels& out) {
  read_q4_0(block, out);
  out.half_minimum = block.half(2);
}

inline void read_q5_0(const Block& block, Levels& out) {
  five_bits(block.bytes(0), block.bytes(1), out.q);
  out.half_scale = block.half(2);
}

inline void read_q5_1(const Block& block, Levels& out) {
  read_q5_0(block, out);
  out.half_minimum = block.half(3);
}

inline void read_q8_0(const Block& block, Levels& out) {
  std::memcpy(out.q, block.bytes(0), 32);
  out.half_scale = block.half(1);
}

// 8 scales and 8 minima of 6 bits in 12 bytes.
inline void six_bit_pairs(Bytes packed, float d, float dmin, Levels& out) {
  for (int i = 0; i < 4; i++) {
    const uint8_t first = packed[i], second = packed[4 + i], third = packed[8 + i];
    out.scale[i] = d * float(first & 63);
    out.minimum[i] = -(dmin * float(second & 63));
    out.scale[4 + i] = d * float((third & 15) | (first >> 2 & 48));
    out.minimum[4 + i] = -(dmin * float(third >> 4 | (second >> 2 & 48)));
  }
}

inline void read_q2_k(const Block& block, Levels& out) {
  const Bytes low = block.bytes(0), scale = block.bytes(1);
  const float d = widened(block.half(2)), dmin = widened(block.half(3));
  for (int i = 0; i < 256; i++) out.q[i] = low[i / 2 % 64] >> (2 * (i / 128) + 4 * (i % 2)) & 3;
  for (int i = 0; i < 16; i++) out.scale[i] = d * float(scale[i] & 15), out.minimum[i] = -(dmin * float(scale[i] >> 4));
}

inline void read_q3_k(const Block& block, Levels& out) {
  const Bytes low = block.bytes(0), high = block.bytes(1), scale = block.bytes(2);
  const float d = widened(block.half(3));
  for (int i = 0; i < 256; i++) {
    const int pair = i / 2, upper = high[pair % 32] >> (pair / 32 + 4 * (i % 2)) & 1;
    out.q[i] = (low[pair % 64] >> (2 * (pair / 64) + 4 * (i % 2)) & 3) | upper << 2;
  }
  for (int i = 0; i < 16; i++) {
    const int lower = scale[i % 8] >> (4 * (i / 8)) & 15, upper = scale[8 + i % 4] >> (2 * (i / 4)) & 3;
    out.scale[i] = d * float((lower | upper << 4) - 32);
  }
}

inline void read_q4_k(const Block& block, Levels& out) {
  nibbles_together(block.bytes(0), 128, out.q);
  six_bit_pairs(block.bytes(1), widened(block.half(2)), widened(block.half(3)), out);
}

inline void read_q5_k(const Block& block, Levels& out) {
  const Bytes low = block.bytes(0), high = block.bytes(1);
  for (int part = 0; part < 4; part++) nibbles_apart(low + 32 * part, 32, out.q + 64 * part);
  for (int i = 0; i < 256; i++) out.q[i] |= (high[i % 32] >> (i / 32) & 1) << 4;
  six_bit_pairs(block.bytes(2), widened(block.half(3)), widened(block.half(4)), out);
}

inline void read_q6_k(const Block& block, Levels& out) {
  const Bytes low = block.bytes(0), high = block.bytes(1);
  const auto* scale = static_cast<const int8_t*>(block.planes[2]);
  const float d = widened(block.half(3));
  for (int part = 0; part < 2; part++) {
    nibbles_apart(low + 64 * part, 64, out.q + 128 * part);
    for (int i = 0; i < 128; i++) out.q[128 * part + i] |= (high[32 * part + i % 32] >> (2 * (i / 32)) & 3) << 4;
  }
  for (int i = 0; i < 16; i++) out.scale[i] = d * float(scale[i]);
}

// 8 scales of 6 bits: low nibbles in 4 bytes, then their upper 2 bits in 2.
inline void read_iq4_xs(const Block& block, Levels& out) {
  const Bytes low = block.bytes(1), high = block.bytes(2);
  const float d = widened(block.half(3));
  nibbles_together(block.bytes(0), 128, out.q);
  for (int i = 0; i < 8; i++) {
    const int lower = low[i / 2] >> (4 * (i % 2)) & 15, upper = high[i / 4] >> (2 * (i % 4)) & 3;
    out.scale[i] = d * float((lower | upper << 4) - 32);
  }
}

inline void read_mxfp4(const Block& block, Levels& out) {
  nibbles_together(block.bytes(0), 16, out.q);
  out.scale[0] = std::ldexp(1.0f, *block.bytes(1) - 128);  // half of what e says: the codebook has doubles
}

inline void read_integers(const Block& block, Levels& out) {
  const Format& format = *block.format;
  if (format.bits == 4)
    nibbles_together(block.bytes(0), format.columns / 2, out.q);
  else
    std::memcpy(out.q, block.bytes(0), format.columns);
  if (format.is_half)
    out.half_scale = block.half(1);
  else
    std::memcpy(out.scale, block.planes[1], sizeof *out.scale);
  if (format.has_zeros) out.zero = *block.bytes(2);
}

// With 128 added.
constexpr uint8_t kIQ4[] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t kFP4[] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

constexpr Plane kHalf{ort::kFloat16, 1}, kSingle{ort::kFloat, 1}, kHalfOrSingle{ort::kAny, 1};
constexpr Plane bytes(size_t count) { return {ort::kUint8, count}; }

inline const Format kFormats[] = {
    // clang-format off
    // name, planes, columns, group, bits, zero, is_offset, is_half, read, codebook
    {"Q4_0Linear", 2, {bytes(16), kHalf}, 32, 32, 4, 8, false, true, read_q4_0, nullptr},
    {"Q4_1Linear", 3, {bytes(16), kHalf, kHalf}, 32, 32, 4, 8, true, true, read_q4_1, nullptr},
    {"Q5_0Linear", 3, {bytes(16), bytes(4), kHalf}, 32, 32, 5, 16, false, true, read_q5_0, nullptr},
    {"Q5_1Linear", 4, {bytes(16), bytes(4), kHalf, kHalf}, 32, 32, 5, 16, true, true, read_q5_1, nullptr},
    {"Q8_0Linear", 2, {bytes(32), kHalf}, 32, 32, 8, 128, false, true, read_q8_0, nullptr},
    {"Q2_KLinear", 4, {bytes(64), bytes(16), kHalf, kHalf}, 256, 16, 4, 2, true, false, read_q2_k, nullptr},
    {"Q3_KLinear", 4, {bytes(64), bytes(32), bytes(12), kHalf}, 256, 16, 4, 4, false, false, read_q3_k, nullptr},
    {"Q4_KLinear", 4, {bytes(128), bytes(12), kHalf, kHalf}, 256, 32, 4, 8, true, false, read_q4_k, nullptr},
    {"Q5_KLinear", 5, {bytes(128), bytes(32), bytes(12), kHalf, kHalf}, 256, 32, 5, 16, true, false, read_q5_k, nullptr},
    {"Q6_KLinear", 4, {bytes(128), bytes(64), {ort::kInt8, 16}, kHalf}, 256, 16, 6, 32, false, false, read_q6_k, nullptr},
    {"IQ4_NLLinear", 2, {bytes(16), kHalf}, 32, 32, 4, 128, false, true, read_q4_0, kIQ4},
    {"IQ4_XSLinear", 4, {bytes(128), bytes(4), bytes(2), kHalf}, 256, 32, 4, 128, false, false, read_iq4_xs, kIQ4},
    {"MXFP4Linear", 2, {bytes(16), bytes(1)}, 32, 32, 4, 128, false, false, read_mxfp4, kFP4},
    {"Q8_KLinear", 2, {bytes(256), kSingle}, 256, 256, 8, 128, false, false, read_integers, nullptr},
    // Our own, of which a node says the rest: see `integers`.
    {"IntLinear", 2, {bytes(0), kHalfOrSingle}, 0, 0, 0, 0, false, false, read_integers, nullptr},
    {"Int4ZeroPointLinear", 3, {bytes(0), kHalfOrSingle, bytes(1)}, 0, 0, 0, 0, true, false, read_integers, nullptr, true},
    {"Int8ZeroPointLinear", 3, {bytes(0), kHalfOrSingle, bytes(1)}, 0, 0, 0, 0, true, false, read_integers, nullptr, true},
    // clang-format on
};
constexpr size_t kNumFormats = sizeof kFormats / sizeof *kFormats;

inline Format integers(Format format, int bits, int block_size, ort::ElementType scale) {
  format.planes[0] = bytes(size_t(block_size) * bits / 8);
  format.planes[1].type = scale;
  format.columns = format.group = block_size;
  format.bits = bits;
  format.zero = 1 << (bits - 1);
  format.is_half = scale == ort::kFloat16;
  return format;
}

}  // namespace formats
