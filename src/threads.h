/* Threads that help the calling one. */
#ifndef FSM_THREADS_H
#define FSM_THREADS_H

/* The k-th of the tasks that some work consists of. `thread` tells the threads at work apart: it is
 * 0 for the calling one, and less than there are threads for the others. */
typedef void fsm_task(const void *work, int k, int thread);

/* Do all tasks, in any order, in at most `threads` threads, the calling one included; return when
 * all are done. */
void fsm_do_all(fsm_task *task, const void *work, int tasks, int threads);

/* The number of threads, at most `workers`, that a call may use now; fsm_leave gives them back. */
int fsm_enter(int workers);
void fsm_leave(int threads);

#endif
