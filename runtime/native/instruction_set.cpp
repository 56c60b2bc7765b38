// SPDX-License-Identifier: Apache-2.0
#include "instruction_set.h"

#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace understudy {
namespace {

#if defined(__x86_64__)
struct Processor {
  bool avx2 = false, avx_vnni = false, avx512_vnni = false, avx512_vbmi = false, avx512_bf16 = false,
       avx512_fp16 = false, amx = false;
  bool system_vectors = false, system_wide_vectors = false, system_tiles = false;  // what the system saves and restores
};

bool request_tiles() {  // Linux gives a process tiles on request: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

Processor detect_processor() {
  Processor p;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return p;
  const bool fused = c & bit_FMA;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  p.system_vectors = (low & 0x6) == 0x6;
  p.system_wide_vectors = (low & 0xE6) == 0xE6;
  const bool tile_state = (low & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return p;
  const unsigned highest = a;
  p.avx2 = fused && (b & (1u << 5));
  const bool avx512 = (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 30)) && (b & (1u << 31));  // F DQ BW VL
  p.avx512_vnni = avx512 && fused && (c & (1u << 11));
  p.avx512_vbmi = c & (1u << 1);
  p.avx512_fp16 = d & (1u << 23);
  const bool tiles = (d & (1u << 24)) && (d & (1u << 25)) && (d & (1u << 22));  // tiles, int8, bf16
  if (highest >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    p.avx_vnni = p.avx2 && (a & (1u << 4));
    p.avx512_bf16 = a & (1u << 5);
  }
  p.amx = tiles && p.avx512_vnni && p.avx512_vbmi && p.avx512_bf16 && p.avx512_fp16;
  p.system_tiles = p.amx && tile_state && p.system_wide_vectors && request_tiles();
  return p;
}

InstructionSet describe(const Kernels& kernels, bool processor, bool system, const char* what) {
  if (!processor) return {&kernels, false, std::string("the processor has no ") + what};
  if (!system) return {&kernels, false, std::string("the system does not let a process use ") + what};
  return {&kernels, true, std::string("the processor has ") + what};
}
#endif

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> all = [] {
    std::vector<InstructionSet> sets;
#if defined(__x86_64__)
    const Processor p = detect_processor();
    sets.push_back(describe(AMX, p.amx, p.system_tiles, "AMX with int8 and bfloat16, and AVX-512 with float16"));
    sets.push_back(describe(AVX512_VNNI, p.avx512_vnni, p.system_wide_vectors, "AVX-512 with VNNI"));
    sets.push_back(describe(AVX_VNNI, p.avx_vnni, p.system_vectors, "AVX-VNNI"));
    sets.push_back(describe(AVX2, p.avx2, p.system_vectors, "AVX2 with FMA"));
#endif
    sets.push_back({&PORTABLE, true, "plain C++ runs everywhere"});
    return sets;
  }();
  return all;
}

const Kernels& choose_kernels(const std::string& name) {
  std::string known;
  for (const InstructionSet& set : instruction_sets()) {
    if (name.empty() ? set.usable : name == set.kernels->name) {
      if (set.usable) return *set.kernels;
      throw std::invalid_argument("the instruction set " + name + " cannot be used here: " + set.reason);
    }
    known += (known.empty() ? "" : ", ") + std::string(set.kernels->name);
  }
  throw std::invalid_argument("no instruction set is called " + name + "; choose one of " + known);
}

}  // namespace understudy
