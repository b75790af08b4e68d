/* Whether this is compiled for AArch64, by a compiler whose intrinsics are GCC's. */
#ifndef FSM_ISA_ARM_H
#define FSM_ISA_ARM_H

/* vec/neon.h has tables by bytes, the least first. */
#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define FSM_ARM
#endif

#endif
