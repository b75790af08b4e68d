/* What this processor can run, and its operating system lets it: the registers must be saved as
 * well. */
#ifndef FSM_CPU_H
#define FSM_CPU_H

#include <stdbool.h>

bool fsm_cpu_has_avx2(void);   /* AVX2 and FMA */
bool fsm_cpu_has_avx512(void); /* these, and AVX-512 F, DQ, BW and VL */

#endif
