/* bfloat16, with AVX2, FMA and F16C. */
#include "isa/x86.h"

#ifdef FSM_X86
FSM_TARGET_BEGIN("avx2,fma,popcnt,f16c")
#define FSM_BFLOAT16
#include "vec/avx2.h"

#include "kernels/table.h"

const fsm_kernels fsm_avx2_bf16 = FSM_KERNELS;
FSM_TARGET_END
#endif
