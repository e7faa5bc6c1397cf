// SPDX-License-Identifier: Apache-2.0
// See faulty_daemon.hpp.
#include "faulty_daemon.hpp"

#include "daemon_fixture.hpp"

#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ipcbus::test {

namespace {

/// How long a look at the daemon may be out of date: it may have nothing to do any more.
constexpr std::int64_t kLookAgainNs = 20'000'000;

/// "socket:[123]" -> "socket", "/memfd:ipcbus-ring (deleted)" -> "/memfd:ipcbus-ring".
std::string kind_of(const std::string& target) {
    if (target.starts_with("socket:") || target.starts_with("pipe:")) {
        return target.substr(0, target.find(':'));
    }
    return target.substr(0, target.find(" (deleted)"));
}

}  // namespace

std::string Holdings::text() const {
    std::string all;
    for (const auto& [kind, count] : descriptors) {
        all += kind + " " + std::to_string(count) + ", ";
    }
    return all + "memfds " + std::to_string(memfd_bytes) + " bytes, mapped " +
           std::to_string(memfd_mappings);
}

unsigned Holdings::count(const std::string& kind) const {
    const auto found = descriptors.find(kind);
    return found == descriptors.end() ? 0 : found->second;
}

Holdings holdings_of(pid_t pid) {
    namespace fs = std::filesystem;
    Holdings holdings;
    const fs::path proc = "/proc/" + std::to_string(pid);
    std::error_code gone;  // what is closed while we look
    for (fs::directory_iterator entry(proc / "fd", gone), end; !gone && entry != end;
         entry.increment(gone)) {
        std::error_code failed;
        const std::string kind = kind_of(fs::read_symlink(entry->path(), failed).string());
        if (failed) {
            continue;
        }
        holdings.descriptors[kind]++;
        struct stat status{};
        if (kind.starts_with("/memfd:") && ::stat(entry->path().c_str(), &status) == 0) {
            holdings.memfd_bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
        }
    }
    std::ifstream maps(proc / "maps");
    for (std::string line; std::getline(maps, line);) {
        holdings.memfd_mappings += line.find("/memfd:ipcbus") != std::string::npos ? 1 : 0;
    }
    return holdings;
}

FaultyDaemon::FaultyDaemon(const std::string& config, unsigned descriptors_max)
    : descriptors_max_(descriptors_max), socket_path_(directory_.file("bus.sock")) {
    write_file(directory_.file("ipcbusd.toml"), config);
    const sys::UniqueFd fd(
        ::open(directory_.file("faults").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(fd.valid());
    REQUIRE(::ftruncate(fd.get(), sizeof(FaultBlock)) == 0);
    auto mapped = sys::map_shared(fd.get(), 0, sizeof(FaultBlock), sys::Access::read_write);
    REQUIRE(mapped.ok());
    memory_ = std::move(mapped).value();
    block()->spared_pids[0] = ::getpid();
}

FaultyDaemon::~FaultyDaemon() {
    disarm();
    const bool running = process_.running();
    if (running) {
        process_.signal(SIGTERM);
        process_.signal(SIGINT);
    }
    if (process_.pid() > 0) {
        const std::optional<int> status = process_.wait();
        INFO(process_.output());
        CHECK(status.value_or(-1) <= (running ? 0 : 1));
        CHECK(process_.output().find("assertion failed") == std::string::npos);
    }
}

bool FaultyDaemon::start() {
    block()->turns = 0;
    const char* const preload = std::getenv("IPCBUS_TEST_PRELOAD");
    REQUIRE(preload != nullptr);
    // The limit is for the daemon, and the faults are: not for the shell.
    process_ = ChildProcess::run(
        {"/bin/sh", "-c",
         "test \"$0\" = 0 || ulimit -n \"$0\"; export LD_PRELOAD=\"$1\"; shift; exec \"$@\"",
         std::to_string(descriptors_max_), preload, daemon_program(), "-c",
         directory_.file("ipcbusd.toml"), "--listen", address()},
        {std::string(kFaultsVariable) + "=" + directory_.file("faults")});
    // Not by what it says: saying so may be what fails.
    (void)wait_until([&] { return block()->turns.load() > 0 || !process_.running(); });
    return block()->turns.load() > 0 && process_.running();
}

void FaultyDaemon::must_start() {
    const bool listens = start();
    INFO(process_.output());
    REQUIRE(listens);
}

std::optional<int> FaultyDaemon::stop() {
    process_.signal(SIGTERM);
    return process_.wait();
}

void FaultyDaemon::arm(Call call, int error, std::uint64_t from, std::uint64_t count) {
    FaultRule& rule = (*block())[call];
    rule.until = 0;
    rule.calls = 0;
    rule.failed = 0;
    rule.error = error;
    rule.from = from;
    rule.until = from + count;
}

void FaultyDaemon::disarm() {
    for (FaultRule& rule : block()->rules) {
        rule.until = 0;
    }
}

std::int64_t FaultyDaemon::now_ns() { return sys::monotonic_ns(); }

void FaultyDaemon::wait_for_turn(std::uint32_t seen) {
    (void)sys::futex_wait(block()->turns, seen, kLookAgainNs);
}

}  // namespace ipcbus::test
