/* float64, in portable C. */
#define FSM_FLOAT64
#include "vec/scalar.h"

#include "kernels/table.h"

const fsm_kernels fsm_scalar_f64 = FSM_KERNELS;
