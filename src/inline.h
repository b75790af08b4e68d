/* For functions that must be inlined, because what is constant at their call shapes their code. */
#ifndef FSM_INLINE_H
#define FSM_INLINE_H

#if defined(_MSC_VER)
#define FSM_INLINE static __forceinline
#else
#define FSM_INLINE static inline __attribute__((always_inline))
#endif

#endif
