// SPDX-License-Identifier: Apache-2.0
// See temp_dir.hpp.
#include "temp_dir.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ipcbus::test {

TempDir::TempDir() {
    const char* base = std::getenv("TMPDIR");
    // Short: the path of a Unix socket has 108 bytes.
    path_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/ipcbus-XXXXXX";
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
}

TempDir::~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::string& path, const std::string& text) {
    std::ofstream file(path, std::ios::trunc);
    file << text;
    file.close();
    REQUIRE(file.good());
}

}  // namespace ipcbus::test
