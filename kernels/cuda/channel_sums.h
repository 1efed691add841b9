// How kernels that treat every channel for itself cut a channels-last image among blocks, and how those sum over the
// pixels of a channel.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/loops.h"

namespace minidl::gpu {

// A block takes a tile of up to 32 neighbouring channels and a slab of consecutive pixels of one sample. Its threads
// stand in rows: a row takes a pixel, each of its `columns` threads V channels of it, and the next pixel of a row is
// `rows` further. So a warp reads pieces of 128 contiguous bytes where there are that many channels, and everything
// contiguously where there are fewer.
struct Tiling {
  static constexpr int kTileChannels = 32;

  std::int64_t channels, pixels;  // of a sample
  std::int64_t slab;              // pixels of a block
  int lanes, columns, rows;       // lanes: V
  int tiles, slabs;               // of a sample

  // A thread gets `pixels_per_thread` of a slab, or more, so that there are no more than most_slabs.
  Tiling(int lanes, std::int64_t channels, std::int64_t pixels, std::int64_t pixels_per_thread,
         std::int64_t most_slabs = std::int64_t{1} << 30)
      : channels(channels), pixels(pixels), lanes(lanes) {
    const std::int64_t vectors = channels / lanes;
    tiles = static_cast<int>(ceil_div(vectors, kTileChannels / lanes));
    columns = static_cast<int>(ceil_div(vectors, tiles));
    rows = kThreads / columns;
    slab = std::max(rows * pixels_per_thread, ceil_div(pixels, most_slabs));
    slabs = static_cast<int>(ceil_div(pixels, slab));
  }

  unsigned blocks(std::int64_t samples) const { return static_cast<unsigned>(samples * slabs * tiles); }
};

// Where a thread stands.
struct Place {
  std::int64_t sample, channel;  // channel: the first of the thread's
  std::int64_t begin, end;       // the thread's pixels: begin, begin + rows, ... before end
  int slab, tile, row;
  bool active;  // the other threads have no channel or no row

  // The blocks of a launch begin with sample `first`.
  __device__ Place(const Tiling& t, std::int64_t first) {
    tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(t.tiles));
    const unsigned rest = blockIdx.x / static_cast<unsigned>(t.tiles);
    slab = static_cast<int>(rest % static_cast<unsigned>(t.slabs));
    sample = first + rest / static_cast<unsigned>(t.slabs);
    row = static_cast<int>(threadIdx.x) / t.columns;
    channel = first_channel(t) + (static_cast<int>(threadIdx.x) % t.columns) * t.lanes;
    active = row < t.rows && channel < t.channels;
    begin = slab * t.slab + row;
    end = min(t.pixels, (slab + 1) * t.slab);
  }

  __device__ std::int64_t first_channel(const Tiling& t) const {
    return static_cast<std::int64_t>(tile) * t.columns * t.lanes;
  }
  // Of the thread's channel within the tile.
  __device__ int offset(const Tiling& t) const { return static_cast<int>(channel - first_channel(t)); }
};

// Adds `values` up over the rows of a block; row 0 gets the sums. All threads call it.
template <int K>
__device__ void sum_rows(const Tiling& t, const Place& at, double (&values)[K]) {
  __shared__ double shared[K][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  for (int k = 0; k < K; ++k) shared[k][thread] = values[k];
  int half = 1;
  while (2 * half < t.rows) half *= 2;
  for (; half > 0; half /= 2) {
    __syncthreads();
    if (at.row < half && at.row + half < t.rows)
      for (int k = 0; k < K; ++k) shared[k][thread] += shared[k][thread + half * t.columns];
  }
  for (int k = 0; k < K; ++k) values[k] = shared[k][thread];
  __syncthreads();  // so that the next call may overwrite
}

// Sums S quantities of every channel over all pixels of a sample, in a fixed order. values[s * V + i] is the thread's
// part of quantity s of its channel i. Returns true in the block that comes last for its tile and sample: there row 0
// has the sums. partial: (samples, slabs, S, channels) doubles; tickets: one for each tile of each sample of the
// launch. All threads call it.
template <int V, int S>
__device__ bool sum_pixels(const Tiling& t, const Place& at, double (&values)[S * V], double* partial,
                           unsigned* tickets) {
  sum_rows(t, at, values);
  if (t.slabs == 1) return true;
  const auto at_slab = [&](std::int64_t slab, int s) {
    return partial + ((at.sample * t.slabs + slab) * S + s) * t.channels + at.channel;
  };
  if (at.active && at.row == 0)
    for (int s = 0; s < S; ++s)
      for (int i = 0; i < V; ++i) at_slab(at.slab, s)[i] = values[s * V + i];
  const unsigned ticket = blockIdx.x / static_cast<unsigned>(t.tiles * t.slabs) * t.tiles + at.tile;
  if (!is_last_block(tickets + ticket, static_cast<unsigned>(t.slabs))) return false;
  for (double& value : values) value = 0;
  if (at.active)
    for (std::int64_t slab = at.row; slab < t.slabs; slab += t.rows)
      for (int s = 0; s < S; ++s)
        for (int i = 0; i < V; ++i) values[s * V + i] += at_slab(slab, s)[i];
  sum_rows(t, at, values);
  return true;
}

// The tickets of one file's kernels.
struct Tickets {
  static constexpr std::int64_t kTiles = 1 << 12;

  unsigned tile[kTiles];  // blocks of a tile that are done
  unsigned all;           // tiles that are done
};

// Calls launch_from(first, samples) until all samples are dealt with, each time with no more than there are tickets.
template <class F>
void for_ticketed_samples(const Tiling& t, std::int64_t samples, F launch_from) {
  check(t.tiles <= Tickets::kTiles, "cuda: an image of ", t.channels, " channels; at most ",
        Tickets::kTiles * Tiling::kTileChannels, " can be summed");
  const std::int64_t most = Tickets::kTiles / t.tiles;
  for (std::int64_t first = 0; first < samples; first += most) launch_from(first, std::min(most, samples - first));
}

}  // namespace minidl::gpu
