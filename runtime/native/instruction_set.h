// SPDX-License-Identifier: Apache-2.0
// Which kernels this processor and this system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace understudy {

struct InstructionSet {
  const Kernels* kernels;
  bool usable;
  std::string reason;  // why it can be used here, or what is missing
};

// All that were built, the fastest first. The portable one is always usable.
const std::vector<InstructionSet>& instruction_sets();

// The named one, or the fastest usable one for "". Throws std::invalid_argument if it is unknown or not usable.
const Kernels& choose_kernels(const std::string& name);

}  // namespace understudy
