/* The one file that knows both the processor and the kernels. */
#include "cpu.h"
#include "fastsoftmax.h"
#include "isa/arm.h"

extern const fsm_kernels fsm_scalar_f32, fsm_scalar_f64;
#if defined(__x86_64__) || defined(_M_X64)
extern const fsm_kernels fsm_avx2_f32, fsm_avx2_f64, fsm_avx2_f16, fsm_avx2_bf16;
extern const fsm_kernels fsm_avx512_f32, fsm_avx512_f64, fsm_avx512_f16, fsm_avx512_bf16;
#endif
#ifdef FSM_ARM
extern const fsm_kernels fsm_neon_f32, fsm_neon_f64, fsm_neon_f16, fsm_neon_bf16;
#endif

static bool always(void) { return true; }

/* Best first. */
static const struct {
  bool (*runs)(void);
  fsm_backend backend;
} known[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {fsm_cpu_has_avx512,
     {"avx512", &fsm_avx512_f32, &fsm_avx512_f64, &fsm_avx512_f16, &fsm_avx512_bf16}},
    {fsm_cpu_has_avx2, {"avx2", &fsm_avx2_f32, &fsm_avx2_f64, &fsm_avx2_f16, &fsm_avx2_bf16}},
#endif
#ifdef FSM_ARM
    {always, {"neon", &fsm_neon_f32, &fsm_neon_f64, &fsm_neon_f16, &fsm_neon_bf16}},
#endif
    {always, {"scalar", &fsm_scalar_f32, &fsm_scalar_f64, NULL, NULL}},
};

const fsm_backend *fsm_backend_at(size_t index) {
  for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
    if (known[k].runs() && index-- == 0) return &known[k].backend;
  return NULL;
}
