/* Memory for what would take too much of the stack, of which a thread may have as little as 128 KB.
 */
#ifndef FSM_KERNELS_MEMORY_H
#define FSM_KERNELS_MEMORY_H

#include <stdlib.h>

enum { CACHE_LINE = 64 };

/* So many bytes that begin at a line of the cache, and the block that is to be freed; NULL if there
 * is no memory. */
static void *allocate(size_t size, void **block) {
  *block = malloc(size + CACHE_LINE);
  if (!*block) return NULL;
  return (char *)*block + (CACHE_LINE - (uintptr_t)*block % CACHE_LINE);
}

#endif
