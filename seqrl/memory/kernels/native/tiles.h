// Products of pairs of bfloat16 in tiles, Intel's AMX: 16 rows of 16 sums, to which one instruction adds 32 products
// each, at ten times the rate of vectors. Every sum is taken over its pairs in order, whatever the rows beside it.
#pragma once

#include "simd.h"

#if TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr int TILE = 16;  // rows of a tile, and numbers or pairs in each

// Whether products of these operands come in tiles, where the system lets this process have them.
template <typename Operand>
constexpr bool tiled = TILES && std::is_same_v<Operand, Rounded>;

// Rows that there has to be room for where M are multiplied: tiles are always whole.
template <int M, typename Operand>
constexpr int room = tiled<Operand> ? TILE : M;

// Rows behind the last one that are read with it, whatever they hold.
template <typename Operand>
constexpr int beyond = tiled<Operand> ? TILE : 0;

// Linux hands out the registers of tiles on request, to all of a process's threads.
inline bool tiles_are_had() {
#if TILES
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
  return granted;
#else
  return false;
#endif
}

// While it lives, this thread's tiles are of full size: 16 rows of 64 bytes.
template <typename Operand>
struct Tiles {
#if TILES
  struct alignas(64) Shape {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE};
  };
  const bool serve = tiled<Operand> && tiles_are_had();

  Tiles() {
    static constexpr Shape shape;  // not on the stack: GCC 12 takes only the first bytes of what is loaded for read
    if (serve) _tile_loadconfig(&shape);
  }
  ~Tiles() {
    if (serve) _tile_release();
  }
#else
  Tiles() {}
#endif
};

// c [TILE, N vectors] += a b, for a tile of rows of a, K whole tiles of pairs, and b [K, N vectors]. Rows stand as far
// from each other as `c_row` numbers, and `a_row` and `b_row` pairs.
template <int N>
inline void multiply_tiles(float* c, int64_t c_row, const Rounded* a, int64_t a_row, int64_t K, const Rounded* b,
                           int64_t b_row) {
#if TILES
  static_assert(N == 3 || N == 4, "as many sums as there are tiles for");
  asm volatile("" ::: "memory");  // GCC 12 does not know that a load of a tile reads memory
  _tile_loadd(0, c, 4 * c_row);
  _tile_loadd(1, c + VL, 4 * c_row);
  _tile_loadd(2, c + 2 * VL, 4 * c_row);
  if constexpr (N == 4) _tile_loadd(3, c + 3 * VL, 4 * c_row);
  for (int64_t k = 0; k < K; k += TILE, b += TILE * b_row) {
    _tile_loadd(4, a + k, 4 * a_row);
    _tile_loadd(5, b, 4 * b_row);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, b + VL, 4 * b_row);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, b + 2 * VL, 4 * b_row);
    _tile_dpbf16ps(2, 4, 7);
    if constexpr (N == 4) {
      _tile_loadd(5, b + 3 * VL, 4 * b_row);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_stored(0, c, 4 * c_row);
  _tile_stored(1, c + VL, 4 * c_row);
  _tile_stored(2, c + 2 * VL, 4 * c_row);
  if constexpr (N == 4) _tile_stored(3, c + 3 * VL, 4 * c_row);
#endif
}
