/* CPUID says what the processor has, XGETBV which registers the operating system saves: an
 * instruction set whose registers are not saved must not be used. Bits are those of the Intel SDM,
 * volume 2, "CPUID". */
#include "cpu.h"

#include "isa/x86.h"

#ifdef FSM_CACHE_SIZES /* what tests say instead */
fsm_cache_sizes fsm_cpu_cache_sizes(void) { return (fsm_cache_sizes)FSM_CACHE_SIZES; }
#else
static const fsm_cache_sizes COMMON_CACHES = {1 << 19, 1 << 23};
#endif

#ifdef FSM_X86

#if defined(_MSC_VER)
#include <intrin.h>
typedef volatile size_t shared_size; /* whose accesses are ordered, in its compiler */
#else
#include <cpuid.h>
#include <stdatomic.h>
typedef atomic_size_t shared_size;
#endif

typedef struct {
  uint32_t eax, ebx, ecx, edx;
} cpuid_words;

/* All zeros for a leaf that the processor does not know. */
static cpuid_words cpuid_part(uint32_t leaf, uint32_t part) {
  cpuid_words w = {0, 0, 0, 0};
#if defined(_MSC_VER)
  int words[4];
  __cpuid(words, (int)(leaf & 0x80000000));
  if ((uint32_t)words[0] < leaf) return w;
  __cpuidex(words, (int)leaf, (int)part);
  memcpy(&w, words, sizeof w);
#else
  if (!__get_cpuid_count(leaf, part, &w.eax, &w.ebx, &w.ecx, &w.edx)) memset(&w, 0, sizeof w);
#endif
  return w;
}

static cpuid_words cpuid(uint32_t leaf) { return cpuid_part(leaf, 0); }

static uint64_t saved_registers(void) {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
#endif
}

enum {
  LEAF1_ECX_FMA = 1 << 12,
  LEAF1_ECX_OSXSAVE = 1 << 27,
  LEAF1_ECX_AVX = 1 << 28,
  LEAF1_ECX_POPCNT = 1 << 23,
  LEAF1_ECX_F16C = 1 << 29,
  LEAF7_EBX_AVX2 = 1 << 5,
  LEAF7_EBX_AVX512F = 1 << 16,
  LEAF7_EBX_AVX512DQ = 1 << 17,
  LEAF7_EBX_AVX512BW = 1 << 30,
  XCR0_XMM_YMM = 0x6,
  XCR0_OPMASK_ZMM = 0xe0,
};
static const uint32_t LEAF7_EBX_AVX512VL = 1u << 31;

static bool has_all(uint64_t word, uint64_t bits) { return (word & bits) == bits; }

bool fsm_cpu_has_avx2(void) {
  cpuid_words one = cpuid(1);
  return has_all(one.ecx, LEAF1_ECX_FMA | LEAF1_ECX_F16C | LEAF1_ECX_POPCNT | LEAF1_ECX_OSXSAVE |
                              LEAF1_ECX_AVX) &&
         has_all(saved_registers(), XCR0_XMM_YMM) && has_all(cpuid(7).ebx, LEAF7_EBX_AVX2);
}

bool fsm_cpu_has_avx512(void) {
  return fsm_cpu_has_avx2() && has_all(saved_registers(), XCR0_OPMASK_ZMM) &&
         has_all(cpuid(7).ebx,
                 LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512VL);
}

#ifndef FSM_CACHE_SIZES

/* Intel describes its caches in leaf 4, AMD in leaf 0x8000001D, in the same words (AMD64 APM,
 * volume 3, appendix E.4.15). */
static fsm_cache_sizes ask_for_cache_sizes(void) {
  enum { NO_CACHE = 0, INSTRUCTION_CACHE = 2, MOST_CACHES = 8 };
  fsm_cache_sizes sizes = {0, 0};
  uint32_t leaf = (cpuid(4).eax & 31) == NO_CACHE ? 0x8000001D : 4;
  for (uint32_t part = 0; part < MOST_CACHES; part++) {
    cpuid_words w = cpuid_part(leaf, part);
    uint32_t type = w.eax & 31, level = w.eax >> 5 & 7;
    if (type == NO_CACHE) break;
    if (type == INSTRUCTION_CACHE) continue;
    size_t line = (w.ebx & 0xfff) + 1, partitions = (w.ebx >> 12 & 0x3ff) + 1;
    size_t ways = (w.ebx >> 22) + 1, bytes = line * partitions * ways * ((size_t)w.ecx + 1);
    if (level == 2) sizes.second = bytes;
    sizes.last = bytes;
  }
  return sizes.second > 0 ? sizes : COMMON_CACHES;
}

/* The answer is the same for every thread that asks; whichever comes first keeps it. */
fsm_cache_sizes fsm_cpu_cache_sizes(void) {
  static shared_size asked, second, last;
  if (!asked) {
    fsm_cache_sizes sizes = ask_for_cache_sizes();
    second = sizes.second;
    last = sizes.last;
    asked = 1;
  }
  return (fsm_cache_sizes){second, last};
}

#endif

#else

#ifndef FSM_CACHE_SIZES
fsm_cache_sizes fsm_cpu_cache_sizes(void) { return COMMON_CACHES; }
#endif
bool fsm_cpu_has_avx512(void) { return false; }
bool fsm_cpu_has_avx2(void) { return false; }

#endif
