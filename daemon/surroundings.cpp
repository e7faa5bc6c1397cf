// SPDX-License-Identifier: Apache-2.0
// Reads /proc and /sys/fs/cgroup (version 2) once, at start and at each reload. What cannot be read
// is taken as not limited: these are defaults, and the administrator can set every one.
#include "surroundings.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string_view>

namespace ipcbus::daemon {

namespace {

/// More descriptors than this nobody has asked for; hard limits of 2^30 exist.
constexpr std::uint64_t kDescriptorsMax = std::uint64_t{1} << 20;

std::string read_text(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return std::move(text).str();
}

/// Our group's path below the unified hierarchy, from "0::/system.slice/ipcbusd.service".
std::string control_group() {
    std::istringstream lines(read_text("/proc/self/cgroup"));
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("0::/")) {
            return line.substr(3);
        }
    }
    return "/";
}

/// 0 for "max", nonsense or no file.
std::uint64_t parse_limit(std::string_view text) {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc{} ? value : 0;
}

std::uint64_t smallest_memory_max() {
    std::uint64_t smallest = 0;
    std::string group = control_group();
    while (true) {
        const std::uint64_t limit =
            parse_limit(read_text("/sys/fs/cgroup" + group + "/memory.max"));
        if (limit != 0 && (smallest == 0 || limit < smallest)) {
            smallest = limit;
        }
        const std::size_t slash = group.rfind('/');
        if (group.size() <= 1 || slash == std::string::npos) {
            return smallest;
        }
        group.resize(std::max<std::size_t>(slash, 1));
        if (group == "/") {
            group.clear();
        }
    }
}

}  // namespace

Surroundings look_around() {
    Surroundings found;
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page_bytes = ::sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0) {
        found.ram_bytes =
            static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
    }
    found.memory_max_bytes = smallest_memory_max();
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        found.descriptors_max = std::min<std::uint64_t>(limit.rlim_max, kDescriptorsMax);
    }
    found.uid = ::geteuid();
    if (const char* const directory = std::getenv("XDG_RUNTIME_DIR")) {
        found.runtime_dir = directory;
    }
    return found;
}

void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, kDescriptorsMax);
        (void)::setrlimit(RLIMIT_NOFILE, &limit);  // a lower limit is refused later, by name
    }
}

}  // namespace ipcbus::daemon
