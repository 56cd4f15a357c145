// The instruction sets that there are kernels for, and which one this processor gets.
#pragma once
#include <cpuid.h>

#include <cstdlib>
#include <cstring>

#include "panels.h"

#if __has_include(<avxvnniintrin.h>)  // since GCC 11
#define HAS_AVXVNNI
#endif
#if __has_include(<amxint8intrin.h>)  // since GCC 11
#define HAS_AMX
#endif

// Each is compiled for itself, in the file of its name: x rounded, and its products with panels. `from`: the first row
// of a block.
#define DECLARED                                                                                                 \
  void round_rows(const panels::Weights& weights, const float* x, int from, int to, panels::Rounded& out);       \
  void multiply(const panels::Weights& weights, const panels::Rounded& x, int from, int to, int first, int last, \
                float* y);
namespace avx2 {
DECLARED
}
namespace avxvnni {
DECLARED
}
namespace avx512 {
DECLARED
}
namespace amx {
DECLARED
bool is_usable();
}  // namespace amx
#undef DECLARED

namespace instruction_sets {

struct InstructionSet {
  const char* name;
  bool is_here;
  void (*round_rows)(const panels::Weights&, const float* x, int from, int to, panels::Rounded& out);
  void (*multiply)(const panels::Weights&, const panels::Rounded&, int from, int to, int first, int last, float* y);
};

inline bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

// Fastest first.
inline const InstructionSet* all() {
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  static const bool has_avx512 = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const InstructionSet sets[] = {
#ifdef HAS_AMX
      {"amx", has_avx512 && amx::is_usable(), avx512::round_rows, amx::multiply},
#endif
      {"avx512", has_avx512, avx512::round_rows, avx512::multiply},
#ifdef HAS_AVXVNNI
      {"avxvnni", has_avx2 && __builtin_cpu_supports("avxvnni"), avxvnni::round_rows, avxvnni::multiply},
#endif
      {"avx2", has_avx2, avx2::round_rows, avx2::multiply},
      {},
  };
  return sets;
}

// The fastest that is here, or the one that MISTRALRS_KERNEL_ISA names; null if it is not here.
inline const InstructionSet* chosen() {
  const char* wanted = std::getenv("MISTRALRS_KERNEL_ISA");
  for (const InstructionSet* set = all(); set->name; set++)
    if (set->is_here && (!wanted || !*wanted || !std::strcmp(wanted, set->name))) return set;
  return nullptr;
}

}  // namespace instruction_sets
