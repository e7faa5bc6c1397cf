// SPDX-License-Identifier: Apache-2.0
// TempDir: a directory of the test's own, removed with all that is in it. Owned by one test or
// fixture; any thread.
#pragma once

#include <string>

namespace ipcbus::test {

class TempDir {
public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

void write_file(const std::string& path, const std::string& text);

}  // namespace ipcbus::test
