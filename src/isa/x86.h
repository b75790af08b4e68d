/* Regions compiled for an x86 instruction set, whatever the flags of the build. */
#ifndef FSM_ISA_X86_H
#define FSM_ISA_X86_H

#if defined(__x86_64__) || defined(_M_X64)
#define FSM_X86

/* What the region includes is included here first, so that no declaration of the C library is in
 * it. */
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FSM_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FSM_TARGET_BEGIN(features)                                                                 \
  FSM_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FSM_TARGET_END _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define FSM_TARGET_BEGIN(features) _Pragma("GCC push_options") FSM_PRAGMA(GCC target(features))
#define FSM_TARGET_END _Pragma("GCC pop_options")
#else /* MSVC compiles every intrinsic without being told */
#define FSM_TARGET_BEGIN(features)
#define FSM_TARGET_END
#endif

#endif
#endif
