// SPDX-License-Identifier: Apache-2.0
// Checks of what comes from outside.
#pragma once

#include <stdexcept>
#include <string>

namespace understudy {

inline void require(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

inline void require_size(int n, int least, int most, const char* name) {
  if (n < least || n > most)
    throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(least) + " to " + std::to_string(most) +
                                ", got " + std::to_string(n));
}

}  // namespace understudy
