/* A few bytes, by pieces of 4, 2 and 1: a memcpy of a length that varies is a call. */
#ifndef FSM_VEC_BYTES_H
#define FSM_VEC_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* n bytes, at most 8, and zeros. */
static inline uint64_t load_bytes(const void *from, size_t n) {
  const unsigned char *p = from;
  uint64_t bytes = 0;
  if (n == 8) {
    memcpy(&bytes, p, 8);
    return bytes;
  }
  for (size_t size = 4, at = 0; size > 0; size /= 2)
    if (n & size) {
      uint64_t piece = 0;
      memcpy(&piece, p + at, size);
      bytes |= piece << (8 * at);
      at += size;
    }
  return bytes;
}

/* The first n of 8. */
static inline void store_bytes(void *to, size_t n, uint64_t bytes) {
  unsigned char *p = to;
  if (n == 8) {
    memcpy(p, &bytes, 8);
    return;
  }
  for (size_t size = 4; size > 0; size /= 2)
    if (n & size) {
      memcpy(p, &bytes, size);
      bytes >>= 8 * size;
      p += size;
    }
}

#endif
