// SPDX-License-Identifier: Apache-2.0
// See machine.hpp.
#include "bench/machine.hpp"

#include "bench/placement.hpp"
#include "sys/address.hpp"

#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string_view>

namespace ipcbus::bench {

namespace {

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return std::move(text).str();
}

/// The value of a line "NAME: value"; empty if there is none.
std::string line_value(const std::string& text, std::string_view name) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(name)) {
            continue;
        }
        const std::size_t colon = line.find(':');
        const std::size_t value = line.find_first_not_of(" \t", colon + 1);
        return colon == std::string::npos || value == std::string::npos ? "" : line.substr(value);
    }
    return {};
}

std::uint64_t kibibytes(const std::string& text, std::string_view name) {
    return std::strtoull(line_value(text, name).c_str(), nullptr, 10) << 10;
}

/// utime and stime of /proc/PID/stat, which are in ticks of 10 ms: where schedstat is not there.
std::int64_t cpu_ticks_ns(pid_t pid) {
    const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    // The name, in parentheses, may hold anything; the 12th and 13th word after it.
    std::istringstream words(stat.substr(std::min(stat.rfind(')'), stat.size() - 1) + 1));
    constexpr int kBefore = 11;
    std::string skipped;
    for (int i = 0; i < kBefore; ++i) {
        words >> skipped;
    }
    std::int64_t user = 0;
    std::int64_t system = 0;
    words >> user >> system;
    return (user + system) * (1'000'000'000 / ::sysconf(_SC_CLK_TCK));
}

}  // namespace

Machine this_machine() {
    Machine machine;
    const std::string info = read_file("/proc/cpuinfo");
    machine.processor = line_value(info, "model name");
    machine.is_virtual =
        (line_value(info, "flags") + " ").find(" hypervisor ") != std::string::npos;
    machine.cpus = static_cast<unsigned>(measure::allowed_cpus().size());
    utsname name{};
    if (::uname(&name) == 0) {
        machine.kernel = name.release;
    }
    return machine;
}

pid_t daemon_at(const std::string& address) {
    const auto where = sys::parse_address(address.empty() ? sys::default_address() : address);
    if (!where.ok() || where.value().kind != sys::Address::Kind::unix_socket) {
        return 0;
    }
    const auto socket = sys::connect_unix(where.value().path, 0);
    if (!socket.ok()) {
        return 0;
    }
    ucred peer{};
    socklen_t bytes = sizeof(peer);
    if (::getsockopt(socket.value().get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
        peer.pid <= 0) {
        return 0;
    }
    const std::string name = read_file("/proc/" + std::to_string(peer.pid) + "/comm");
    return name == "ipcbusd\n" ? peer.pid : 0;
}

Usage usage_of(pid_t pid) {
    Usage usage;
    if (pid <= 0) {
        return usage;
    }
    const std::string folder = "/proc/" + std::to_string(pid);
    const std::string status = read_file(folder + "/status");
    if (status.empty()) {
        return usage;
    }
    usage.is_known = true;
    usage.rss_bytes = kibibytes(status, "RssAnon") + kibibytes(status, "RssFile");
    usage.shared_bytes = kibibytes(status, "RssShmem");
    // The daemon has one thread that runs; the kernel's helpers of its io_uring count as threads,
    // but schedstat is of the first one alone.
    const std::string stat = read_file(folder + "/schedstat");
    usage.cpu_ns = stat.empty() ? cpu_ticks_ns(pid) : std::strtoll(stat.c_str(), nullptr, 10);
    return usage;
}

}  // namespace ipcbus::bench
