/* float64, with AVX2 and FMA. */
#include "isa/x86.h"

#ifdef FSM_X86
FSM_TARGET_BEGIN("avx2,fma,popcnt")
#define FSM_FLOAT64
#include "vec/avx2.h"

#include "kernels/table.h"

const fsm_kernels fsm_avx2_f64 = FSM_KERNELS;
FSM_TARGET_END
#endif
