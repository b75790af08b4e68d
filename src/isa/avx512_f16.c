/* float16, with AVX-512 F, DQ, BW and VL. */
#include "isa/x86.h"

#ifdef FSM_X86
FSM_TARGET_BEGIN("avx2,fma,popcnt,f16c,avx512f,avx512dq,avx512bw,avx512vl")
#define FSM_FLOAT16
#include "vec/avx512.h"

#include "kernels/table.h"

const fsm_kernels fsm_avx512_f16 = FSM_KERNELS;
FSM_TARGET_END
#endif
