/* What this processor and its operating system can run. */
#ifndef FSM_CPU_H
#define FSM_CPU_H

#include <stdbool.h>

bool fsm_cpu_has_avx2(
    void); /* AVX2 and FMA, with the upper halves of the registers kept by the system */

#endif
