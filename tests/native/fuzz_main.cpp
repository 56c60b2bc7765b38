// SPDX-License-Identifier: Apache-2.0
// Runs a target of libFuzzer without libFuzzer: fuzz_engine [SEEDS [FIRST_SEED]] makes bytes from seeds, fuzz_engine
// FILE... reads them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t MOST_BYTES = 400;  // more than the target reads of most inputs

void run_seed(unsigned long seed) {
  std::mt19937_64 generator(seed);
  std::vector<uint8_t> bytes(generator() % MOST_BYTES);
  for (uint8_t& byte : bytes) byte = uint8_t(generator());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int n_arguments, char** arguments) {
  char* end = nullptr;
  const unsigned long n_seeds = n_arguments > 1 ? std::strtoul(arguments[1], &end, 10) : 100;
  if (end && *end) {
    for (int i = 1; i < n_arguments; ++i) {
      std::ifstream file(arguments[i], std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
    std::printf("%d files ran clean\n", n_arguments - 1);
    return 0;
  }
  const unsigned long first = n_arguments > 2 ? std::strtoul(arguments[2], nullptr, 10) : 0;
  for (unsigned long seed = first; seed < first + n_seeds; ++seed) {
    std::fprintf(stderr, "\rseed %lu ", seed);  // the last one shown is the one that failed
    run_seed(seed);
  }
  std::printf("%lu seeds ran clean\n", n_seeds);
}
