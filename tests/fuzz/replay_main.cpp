// SPDX-License-Identifier: Apache-2.0
// Stands in for libFuzzer's main in a normal build: gives every file that is named, or lies in a
// directory that is named, to the fuzzer it is linked with. A finding ends the program, and the
// last line before it says which input it was. One thread.
#include "fuzz.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

std::vector<std::filesystem::path> inputs(int count, char** arguments) {
    std::vector<std::filesystem::path> found;
    for (int i = 1; i < count; i++) {
        if (std::filesystem::is_directory(arguments[i])) {
            for (const auto& entry : std::filesystem::directory_iterator(arguments[i])) {
                found.push_back(entry.path());
            }
        } else {
            found.emplace_back(arguments[i]);
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace

int main(int count, char** arguments) {
    const auto found = inputs(count, arguments);
    for (const auto& path : found) {
        std::ifstream file(path, std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
            return 1;
        }
        const std::string text{std::istreambuf_iterator<char>(file),
                               std::istreambuf_iterator<char>()};
        std::printf("%s\n", path.filename().c_str());
        (void)std::fflush(stdout);
        (void)LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(text.data()),
                                     text.size());
    }
    std::printf("%zu inputs\n", found.size());
    return found.empty() ? 1 : 0;
}
