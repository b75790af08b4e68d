/* What this processor can run, and its operating system lets it: the registers must be saved as
 * well. */
#ifndef FSM_CPU_H
#define FSM_CPU_H

#include <stdbool.h>
#include <stddef.h>

bool fsm_cpu_has_avx2(void);   /* AVX2, FMA, F16C and POPCNT */
bool fsm_cpu_has_avx512(void); /* these, and AVX-512 F, DQ, BW and VL */

/* Bytes of the second-level cache and of the last, as seen by one core; those of a common processor
 * where this one does not tell. The first call asks it, which takes 50 microseconds on a virtual
 * machine. */
typedef struct {
  size_t second, last;
} fsm_cache_sizes;
fsm_cache_sizes fsm_cpu_cache_sizes(void);

#endif
