/* Threads that help the calling one. */
#ifndef FSM_THREADS_H
#define FSM_THREADS_H

#include <stdbool.h>

#include "fastsoftmax.h"

/* Do all tasks, in any order, in at most `threads` threads, the calling one included; return when
 * all are done. Threads that sleep are woken if it `wakes` them, or if the last such call ended
 * just now and more are likely to come: to wake one takes as long as a small call. */
void fsm_do_all(fsm_task *task, void *work, int tasks, int threads, bool wakes);

/* Whether threads that sleep need not be woken, or would be for a call that does not wake them. */
bool fsm_help_is_near(void);

/* The number of threads, at most `workers`, that a call may use now; fsm_leave gives them back. */
int fsm_enter(int workers);
void fsm_leave(int threads);

#endif
