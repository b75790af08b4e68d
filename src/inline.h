/* FSM_INLINE is for functions that must be inlined, because what is constant at their call shapes
 * their code; FSM_APART for those that must not, as their values would take registers from loops.
 */
#ifndef FSM_INLINE_H
#define FSM_INLINE_H

#if defined(_MSC_VER)
#define FSM_INLINE static __forceinline
#define FSM_APART static __declspec(noinline)
#else
#define FSM_INLINE static inline __attribute__((always_inline))
#define FSM_APART static __attribute__((noinline))
#endif

#endif
