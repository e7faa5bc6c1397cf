// SPDX-License-Identifier: Apache-2.0
// Goal: between awake processes messages flow without system calls and without the daemon; who has
// nothing to do sleeps, ever longer.
// Method: the kernel's own counts. System calls are counted by ptrace, between two marks that the
// traced process makes; wake-ups and CPU time are in /proc. IPCBUS_TEST_SECONDS: how long to watch
// the idle ones (3; from 16 on, the limit of one wake-up in ten seconds is checked).
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// A line of /proc/PID/status; of its main thread.
std::uint64_t status_of(pid_t pid, const std::string& key) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind(key + ":", 0) == 0) {
            return std::strtoull(line.c_str() + key.size() + 1, nullptr, 10);
        }
    }
    FAIL("no ", key, " of ", pid);
    return 0;
}
std::uint64_t sleeps_of(pid_t pid) { return status_of(pid, "voluntary_ctxt_switches"); }

/// Clock ticks of CPU time.
std::uint64_t cpu_ticks_of(pid_t pid) {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    std::getline(stat, line);
    std::istringstream words(line.substr(line.rfind(')') + 2));
    std::string word;
    for (int i = 0; i < 11; i++) {
        words >> word;
    }
    std::uint64_t user = 0;
    std::uint64_t system = 0;
    words >> user >> system;
    return user + system;
}

// ------------------------------------------------------------------------------ system calls

/// The mark: a call that the library never makes.
void mark() { (void)::syscall(SYS_getppid); }

bool may_trace() {
    ChildProcess child = ChildProcess::fork(
        [] { return ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1; });
    return child.wait() == 0;
}

/// Traces both children until they exit; the system calls that each made between its marks, by
/// number.
using Calls = std::map<pid_t, std::map<std::uint64_t, std::uint64_t>>;
Calls trace(const std::vector<pid_t>& children) {
    Calls calls;
    std::map<pid_t, bool> counting;
    std::size_t left = children.size();
    for (const pid_t pid : children) {
        int status = 0;
        REQUIRE(::waitpid(pid, &status, __WALL) == pid);
        REQUIRE(WIFSTOPPED(status));
        REQUIRE(::ptrace(PTRACE_SETOPTIONS, pid, nullptr,
                         PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
    }
    for (const pid_t pid : children) {
        REQUIRE(::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) == 0);
    }
    while (left != 0) {
        int status = 0;
        const pid_t pid = ::waitpid(-1, &status, __WALL);
        REQUIRE(pid > 0);
        if (std::find(children.begin(), children.end(), pid) == children.end()) {
            continue;
        }
        if (!WIFSTOPPED(status)) {
            CHECK(WIFEXITED(status));
            CHECK(WEXITSTATUS(status) == 0);
            left--;
            continue;
        }
        int signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80)) {
            signal = 0;
            __ptrace_syscall_info info{};
            (void)::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
                const std::uint64_t number = info.entry.nr;
                if (number == SYS_getppid) {
                    counting[pid] = !counting[pid];
                } else if (counting[pid]) {
                    calls[pid][number]++;
                }
            }
        }
        (void)::ptrace(PTRACE_SYSCALL, pid, nullptr, signal);
    }
    return calls;
}

struct Flow {
    alignas(64) std::atomic<std::uint64_t> received{0};
    alignas(64) Milestone ready;
};

/// To be traced from here on; the parent goes on with trace().
void be_traced() {
    must_be(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0, "ptrace");
    (void)::raise(SIGSTOP);
}

/// Never more on the way than the ring holds: who is awake is never waited for.
constexpr std::uint64_t kOnTheWay = 2'000;

int awake_publisher(const std::string& address, std::uint64_t messages, Flow& flow) {
    const Bus bus = connect(address);
    const Publisher publisher = advertise(bus, "hot", 1 << 20);
    (void)must(ipcbus_wait_subscribers(publisher.get(), 1, kLongNs), "wait_subscribers");
    be_traced();
    const char text[64] = "hot";
    for (std::uint64_t i = 0; i < messages + 2 * kOnTheWay; i++) {
        if (i == kOnTheWay) {
            mark();  // warm: its memory has been touched, its reader is awake
        }
        const sys::Deadline deadline = sys::Deadline::after(2 * kLongNs);
        while (i >= flow.received.load(std::memory_order_acquire) + kOnTheWay) {
            must_be(!deadline.passed(), "the reader has gone");  // asks the clock, not the kernel
        }
        (void)must(ipcbus_publish(publisher.get(), text, sizeof(text)), "publish");
        if (i == messages) {
            mark();
        }
    }
    must_be(flow.ready.wait(2), "the reader hangs");
    return 0;
}

int awake_reader(const std::string& address, std::uint64_t messages, Flow& flow) {
    const Bus bus = connect(address);
    const Subscriber subscriber =
        subscribe(bus, "hot", IPCBUS_RELIABLE, std::int64_t{1} << 62);  // never sleeps
    flow.ready.raise();
    be_traced();
    char buffer[64];
    for (std::uint64_t i = 1; i <= messages + 2 * kOnTheWay; i++) {
        if (i == kOnTheWay) {
            mark();
        }
        (void)must(ipcbus_receive(subscriber.get(), buffer, sizeof(buffer), kLongNs, nullptr),
                   "receive");
        flow.received.store(i, std::memory_order_release);
        if (i == messages) {
            mark();
        }
    }
    flow.ready.raise();
    return 0;
}

std::int64_t test_seconds() {
    const char* text = std::getenv("IPCBUS_TEST_SECONDS");
    return text != nullptr ? std::strtol(text, nullptr, 10) : 3;
}

/// ThreadSanitizer maps memory of its own while a program runs.
bool of_the_sanitizer([[maybe_unused]] long number) {
#if defined(__SANITIZE_THREAD__)
    return number == SYS_mmap;
#else
    return false;
#endif
}

}  // namespace

TEST_CASE("between two awake processes messages make no system calls") {
    if (!may_trace()) {
        MESSAGE("skipped: ptrace is refused here");
        return;
    }
    DaemonFixture daemon;
    for (const std::uint64_t messages : {100'000u, 1'000'000u}) {
        std::uint64_t made = 0;
        const std::int64_t began_ns = sys::monotonic_ns();
        const SharedBlock<Flow> flow;
        ChildProcess reader = ChildProcess::fork(
            [&] { return awake_reader(daemon.address(), messages, *flow); });
        REQUIRE(flow->ready.wait(1));
        ChildProcess publisher = ChildProcess::fork(
            [&] { return awake_publisher(daemon.address(), messages, *flow); });
        const Calls calls = trace({reader.pid(), publisher.pid()});
        // A glance at the control socket ten times a second is all there may be.
        for (const auto& [pid, numbers] : calls) {
            for (const auto& [number, count] : numbers) {
                const std::string who = pid == reader.pid() ? "reader" : "publisher";
                MESSAGE(who, " made system call ", number, " ", count, " times in ",
                        messages, " messages");
                made += number == SYS_clock_gettime || of_the_sanitizer(number) ? 0 : count;
            }
        }
        const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
        // The sanitizers' own are among them; messages would be in the hundreds of thousands.
        CHECK(made <= static_cast<std::uint64_t>(200 + 40 * took_ns / kSecondNs));
    }
}

TEST_CASE("the daemon sleeps while a million messages pass") {
    DaemonFixture daemon;
    const pid_t daemon_pid = daemon.process().pid();
    const SharedBlock<Flow> flow;
    ChildProcess reader = ChildProcess::fork([&] {
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "hot");
        flow->ready.raise();
        char buffer[64];
        for (std::uint64_t i = 1; i <= 1'000'000; i++) {
            (void)must(ipcbus_receive(subscriber.get(), buffer, 64, kLongNs, nullptr), "receive");
        }
        flow->ready.raise();
        must_be(flow->ready.wait(3), "stuck");
        return 0;
    });
    REQUIRE(flow->ready.wait(1));
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(bus, "hot");
    const auto send = [&](int count) {
        for (int i = 0; i < count; i++) {
            REQUIRE(ipcbus_publish(publisher.get(), "x", 1) == 0);
        }
    };
    send(1000);
    const std::uint64_t sleeps = sleeps_of(daemon_pid);
    const std::uint64_t ticks = cpu_ticks_of(daemon_pid);
    send(999'000);
    REQUIRE(flow->ready.wait(2));
    // What reader and publisher still had to say of their attachment; nothing for a message.
    CHECK(sleeps_of(daemon_pid) - sleeps <= 4);
    CHECK(cpu_ticks_of(daemon_pid) - ticks <= 1);
    flow->ready.raise();
    CHECK(reader.wait() == 0);
}

TEST_CASE("who has nothing to do sleeps, ever longer") {
    DaemonFixture daemon;
    const SharedBlock<Flow> flow;
    // One that waits for itself, one that waits with a set, for one that publishes nothing.
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(bus, "idle/topic");
    const auto idle = [&](bool with_set) {
        const Bus own = connect(daemon.address());
        const Subscriber subscriber = subscribe(own, "idle/#");
        ipcbus_set* made = nullptr;
        (void)must(ipcbus_set_create(own.get(), &made), "set_create");
        const Set set(made);
        if (with_set) {
            ipcbus_subscriber* ready = nullptr;
            (void)must(ipcbus_set_add(set.get(), subscriber.get()), "set_add");
            flow->ready.raise();
            (void)must(ipcbus_set_wait(set.get(), IPCBUS_FOREVER, &ready), "set_wait");
        } else {
            flow->ready.raise();
        }
        char buffer[8];
        (void)must(ipcbus_receive(subscriber.get(), buffer, 8, IPCBUS_FOREVER, nullptr), "receive");
        return 0;
    };
    ChildProcess alone = ChildProcess::fork([&] { return idle(false); });
    ChildProcess with_set = ChildProcess::fork([&] { return idle(true); });
    REQUIRE(flow->ready.wait(2));

    // Slices of 1, 4, 16 ... ms, up to 10 s: so many sleeps have begun after so long. Time is what
    // this is about, so it passes.
    const auto watch = [&](std::int64_t ms) {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    };
    const pid_t pids[] = {alone.pid(), with_set.pid()};
    watch(500);
    std::uint64_t begun[2];
    for (int i = 0; i < 2; i++) {
        begun[i] = sleeps_of(pids[i]);
    }
    const std::uint64_t daemon_sleeps = sleeps_of(daemon.process().pid());
    const std::int64_t seconds = test_seconds();
    if (seconds < 16) {
        // After 0.5 s: slices of 1, 4 and at the most one of 16 s begin.
        watch(seconds * 1000 - 500);
        for (int i = 0; i < 2; i++) {
            CHECK(sleeps_of(pids[i]) - begun[i] <= 3);
        }
    } else {
        watch(15'000);
        for (int i = 0; i < 2; i++) {
            CHECK(sleeps_of(pids[i]) - begun[i] <= 5);
            begun[i] = sleeps_of(pids[i]);
        }
        watch((seconds - 15) * 1000);
        for (int i = 0; i < 2; i++) {
            CHECK(sleeps_of(pids[i]) - begun[i] <=
                  static_cast<std::uint64_t>((seconds - 15) / 10 + 1));
        }
    }
    CHECK(sleeps_of(daemon.process().pid()) == daemon_sleeps);
    for (const pid_t pid : pids) {
        CHECK(cpu_ticks_of(pid) <= 5);
    }
    // And wakes at once.
    const std::int64_t began_ns = sys::monotonic_ns();
    publish(publisher, "x");
    CHECK(alone.wait() == 0);
    CHECK(with_set.wait() == 0);
    CHECK(sys::monotonic_ns() - began_ns < kSecondNs);
}
