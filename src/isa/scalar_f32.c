/* float32, in portable C. */
#define FSM_FLOAT32
#include "vec/scalar.h"

#include "kernels/table.h"

const fsm_kernels fsm_scalar_f32 = FSM_KERNELS;
