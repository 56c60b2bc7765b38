// SPDX-License-Identifier: Apache-2.0
// Which build of the engine this is. build_id.cmake writes the definition.
#pragma once

namespace understudy {

// 16 hexadecimal digits: a hash of the sources, the compiler and its flags. Equal ones compute the same, at the same speed, on
// equal processors with the same kernels.
const char* build_id();

}  // namespace understudy
