/* float64, with the Advanced SIMD that every AArch64 processor has. */
#include "isa/arm.h"

#ifdef FSM_ARM
#define FSM_FLOAT64
#include "vec/neon.h"

#include "kernels/table.h"

const fsm_kernels fsm_neon_f64 = FSM_KERNELS;
#endif
