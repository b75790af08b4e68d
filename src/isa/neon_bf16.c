/* bfloat16, with the Advanced SIMD that every AArch64 processor has. */
#include "isa/arm.h"

#ifdef FSM_ARM
#define FSM_BFLOAT16
#include "vec/neon.h"

#include "kernels/table.h"

const fsm_kernels fsm_neon_bf16 = FSM_KERNELS;
#endif
