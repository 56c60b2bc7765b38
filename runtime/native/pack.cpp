// SPDX-License-Identifier: Apache-2.0
#include "pack.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace understudy {
namespace {

constexpr float MAX_INT8 = 127.0f;
constexpr float MIN_ABSMAX = 1e-36f;  // a row whose largest magnitude is less counts as zero: 127 divided by it may be infinite
constexpr int AHEAD_BYTES = 16 * TILE_BYTES;  // of room: products fetch beyond the last tile

float absmax_of(const float* x, size_t n) {
  uint32_t largest = 0;  // of floats without a sign the order is that of their bits
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
}

float units_per_value(float absmax) { return absmax > MIN_ABSMAX ? MAX_INT8 / absmax : 0.0f; }

// x rounded to the nearest integer (ties to even), -127 to 127: after the addition it is the lowest byte. The compiler
// vectorises a loop of this, not one of lrintf.
int8_t rounded(float x) { return int8_t(std::bit_cast<uint32_t>(x + 12582912.0f)); }

bool is_zero(const float* weight, int n_outputs, int n_inputs, int panel, int group) {
  const int last_output = std::min(n_outputs, (panel + 1) * PANEL), last_input = std::min(n_inputs, (group + 1) * GROUP);
  for (int o = panel * PANEL; o < last_output; ++o)
    for (int i = group * GROUP; i < last_input; ++i)
      if (weight[size_t(o) * n_inputs + i] != 0.0f) return false;
  return true;
}

}  // namespace

Matrix pack_matrix(Arena& arena, const float* weight, const float* bias, int n_outputs, int n_inputs, const Kernels& kernels,
                   const float* smoothing, Storage storage) {
  const int n_panels = panels(n_outputs), n_groups = (n_inputs + GROUP - 1) / GROUP;
  if (n_outputs < 1 || n_inputs < 1 || n_inputs > MAX_INPUTS)
    throw std::invalid_argument("a matrix must have outputs and 1 to 65,536 inputs, got " + std::to_string(n_outputs) + " x " +
                                std::to_string(n_inputs));

  std::vector<std::vector<uint16_t>> kept(n_panels);
  size_t n_kept = 0;
  if (storage != Storage::DENSE)
    for (int panel = 0; panel < n_panels; ++panel) {
      for (int group = 0; group < n_groups; ++group)
        if (!is_zero(weight, n_outputs, n_inputs, panel, group)) kept[panel].push_back(uint16_t(group));
      n_kept += kept[panel].size();
    }
  const bool sparse = storage == Storage::SPARSE ||
                      (storage == Storage::FASTER && float(n_kept) <= kernels.sparse_below * float(n_panels) * float(n_groups));

  std::vector<int32_t> first_tile(n_panels + 1, 0);
  for (int panel = 0; panel < n_panels; ++panel) {
    const int n = sparse ? int(kept[panel].size()) : n_groups;
    first_tile[panel + 1] = first_tile[panel] + (n + TILE_GROUPS - 1) / TILE_GROUPS;
  }
  const size_t n_tiles = size_t(first_tile[n_panels]);

  std::byte* memory = nullptr;
  int8_t* tiles = nullptr;
  int32_t* firsts = nullptr;
  uint16_t* groups = nullptr;
  float *scale = nullptr, *offset = nullptr, *biases = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    Layout layout(memory);
    firsts = layout.take<int32_t>(n_panels + 1);
    scale = layout.take<float>(size_t(n_panels) * PANEL);
    offset = layout.take<float>(size_t(n_panels) * PANEL);
    biases = layout.take<float>(size_t(n_panels) * PANEL);
    groups = sparse ? layout.take<uint16_t>((n_tiles + 1) * TILE_GROUPS) : nullptr;
    tiles = layout.take<int8_t>(n_tiles * TILE_BYTES);
    if (!pass) memory = arena.take(layout.used() + AHEAD_BYTES);
  }
  std::copy(first_tile.begin(), first_tile.end(), firsts);

  std::vector<int8_t> row(size_t(n_groups) * GROUP, 0);
  std::vector<float> smoothed(smoothing ? size_t(n_inputs) : 0);  // weights are divided by what activations are multiplied by
  for (int output = 0; output < n_outputs; ++output) {
    const float* weights = weight + size_t(output) * n_inputs;
    if (smoothing) {
      for (int i = 0; i < n_inputs; ++i) smoothed[i] = smoothing[i] > 0.0f ? std::clamp(weights[i] / smoothing[i], -FLT_MAX, FLT_MAX) : 0.0f;
      weights = smoothed.data();
    }
    const float absmax = absmax_of(weights, size_t(n_inputs));
    const float per_unit = units_per_value(absmax);
    int32_t total = 0;
    for (int i = 0; i < n_inputs; ++i) row[i] = rounded(weights[i] * per_unit);
    for (int i = 0; i < n_inputs; ++i) total += row[i];
    scale[output] = absmax / MAX_INT8;
    offset[output] = scale[output] * float(total);
    biases[output] = bias ? bias[output] : 0.0f;
    const int panel = output / PANEL;
    const int n = sparse ? int(kept[panel].size()) : n_groups;
    for (int k = 0; k < n; ++k) {
      const int group = sparse ? kept[panel][k] : k;
      const size_t tile = size_t(first_tile[panel]) + k / TILE_GROUPS;
      std::memcpy(tiles + tile * TILE_BYTES + ((output % PANEL) * TILE_GROUPS + k % TILE_GROUPS) * GROUP,
                  row.data() + size_t(group) * GROUP, GROUP);
    }
  }
  if (sparse)
    for (int panel = 0; panel < n_panels; ++panel)
      std::copy(kept[panel].begin(), kept[panel].end(), groups + size_t(first_tile[panel]) * TILE_GROUPS);

  return {n_outputs, n_inputs, tiles, firsts, groups, scale, offset, biases};
}

PackedTable pack_table(const float* table, size_t n_rows, size_t width) {
  PackedTable packed{Buffer(n_rows * width), Buffer(n_rows * sizeof(float))};
  auto* values = reinterpret_cast<int8_t*>(packed.values.get());
  auto* scales = reinterpret_cast<float*>(packed.scales.get());
  for (size_t r = 0; r < n_rows; ++r) {
    const float* row = table + r * width;
    const float absmax = absmax_of(row, width), per_unit = units_per_value(absmax);
    scales[r] = absmax / MAX_INT8;
    for (size_t i = 0; i < width; ++i) values[r * width + i] = rounded(row[i] * per_unit);
  }
  return packed;
}

}  // namespace understudy
