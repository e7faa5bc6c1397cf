// SPDX-License-Identifier: Apache-2.0
// See ledger.hpp.
#include "ledger.hpp"

#include <doctest/doctest.h>

#include <sys/stat.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>

namespace ipcbus::test {

namespace {

/// The line "NAME: N kB" of a file.
std::uint64_t kib_of(const std::string& path, const std::string& name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, name.size() + 1, name + ":") == 0) {
            return std::stoull(line.substr(name.size() + 1));
        }
    }
    return 0;
}

/// Of an io_uring: its fdinfo lists the operations that wait for a file to become ready.
std::size_t armed_in(const std::string& fdinfo) {
    std::ifstream file(fdinfo);
    std::size_t count = 0;
    for (std::string line; std::getline(file, line);) {
        count += line.find(" op=") != std::string::npos || line.compare(0, 3, "op=") == 0 ? 1 : 0;
    }
    return count;
}

}  // namespace

Ledger Ledger::of(pid_t pid) {
    const std::string process = "/proc/" + std::to_string(pid);
    Ledger found;
    std::map<std::uint64_t, std::uint64_t> memfds;  // inode, bytes
    for (const auto& entry : std::filesystem::directory_iterator(process + "/fd")) {
        found.descriptors++;
        std::error_code gone;
        const std::string name = std::filesystem::read_symlink(entry.path(), gone).string();
        struct stat status{};
        if (name.compare(0, 7, "/memfd:") == 0 && ::stat(entry.path().c_str(), &status) == 0) {
            memfds[status.st_ino] = static_cast<std::uint64_t>(status.st_blocks) * 512;
        } else if (name.find("[io_uring]") != std::string::npos) {
            found.operations += armed_in(process + "/fdinfo/" + entry.path().filename().string());
        }
    }
    for (const auto& [inode, bytes] : memfds) {
        found.memfd_bytes += bytes;
    }
    std::ifstream maps(process + "/maps");
    for (std::string line; std::getline(maps, line);) {
        found.mappings++;
    }
    found.own_bytes = kib_of(process + "/status", "RssAnon") * 1024;
    return found;
}

std::string Ledger::text() const {
    return std::to_string(descriptors) + " descriptors, " + std::to_string(mappings) +
           " mappings, " + std::to_string(own_bytes >> 10) + " KiB of its own, " +
           std::to_string(memfd_bytes >> 10) + " KiB of memfds, " + std::to_string(operations) +
           " operations";
}

std::int64_t cpu_ns(pid_t pid) {
    clockid_t clock{};
    timespec used{};
    REQUIRE(::clock_getcpuclockid(pid, &clock) == 0);
    REQUIRE(::clock_gettime(clock, &used) == 0);
    return used.tv_sec * std::int64_t{1'000'000'000} + used.tv_nsec;
}

std::int64_t own_cpu_ns() {
    timespec used{};
    (void)::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * std::int64_t{1'000'000'000} + used.tv_nsec;
}

}  // namespace ipcbus::test
