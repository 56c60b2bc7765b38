// SPDX-License-Identifier: Apache-2.0
// The kernels as every instruction set has them. The including file is compiled for one instruction set and has
// defined `dot`, the 8-bit product of four features, and OUTPUTS and BLOCKS, how many sums fit its registers.
//
// One translation unit for each instruction set includes all of them: the kernels are inlined into each other.
#pragma once

#include "generic_product.h"
#include "generic_quantise.h"
#include "generic_norm.h"
#include "generic_tables.h"
#include "generic_experts.h"
#include "generic_columns.h"
#include "generic_attention.h"
