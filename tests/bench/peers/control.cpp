// SPDX-License-Identifier: Apache-2.0
// Orders and reports over the shared page; see control.hpp.
#include "peers/control.hpp"

#include "bench/clock.hpp"
#include "peers/message.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

namespace ipcbus::bench {
namespace {

constexpr std::int64_t kSpinNs = 100'000;
constexpr std::int64_t kSleepNs = 100'000'000;

// For the handler of SIGCHLD: a reader that ends before its time ends the run.
std::array<std::atomic<pid_t>, kReadersMax> living;

void child_ended(int) {
    for (auto& pid : living) {
        int status = 0;
        if (pid.load() != 0 && ::waitpid(pid.load(), &status, WNOHANG) == pid.load()) {
            constexpr char kText[] = "compare_run: a reader has ended\n";
            (void)!::write(STDERR_FILENO, kText, sizeof kText - 1);
            ::_exit(1);
        }
    }
}

/// Until `word` is not `old` any more.
void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t old, bool spin) {
    const std::int64_t until_ns = spin ? sys::monotonic_ns() + kSpinNs : 0;
    while (word.load(std::memory_order_acquire) == old) {
        if (until_ns == 0 || sys::monotonic_ns() > until_ns) {
            (void)sys::futex_wait(word, old, kSleepNs);
        }
    }
}

std::uint64_t sleeps_of_thread() {
    rusage usage{};
    (void)::getrusage(RUSAGE_THREAD, &usage);
    return static_cast<std::uint64_t>(usage.ru_nvcsw);
}

}  // namespace

Control* Control::make() {
    void* memory = ::mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        fail("control", "no memory");
    }
    return new (memory) Control();
}

Usage::Usage() : cpu_ns_(measure::thread_cpu_ns()), sleeps_(sleeps_of_thread()) {}
std::int64_t Usage::cpu_ns() const { return measure::thread_cpu_ns() - cpu_ns_; }
std::uint64_t Usage::sleeps() const { return sleeps_of_thread() - sleeps_; }

void Leader::fork_reader(int number, const std::function<void(int)>& follow_as) {
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::signal(SIGCHLD, SIG_DFL);
        ::signal(SIGALRM, SIG_DFL);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) {
            ::_exit(1);
        }
        follow_as(number);
        std::exit(0);  // not _exit: libraries sign off in their destructors
    }
    if (pid < 0) {
        fail("control", "cannot fork");
    }
    const auto at = static_cast<std::size_t>(number);
    pids_[at] = pid;
    living[at].store(pid);
    readers_ = number + 1;
    ::signal(SIGCHLD, child_ended);
}

void Leader::post(int readers, const Order& order) {
    control_.order = order;
    for (int i = 0; i < readers; i++) {
        auto& seat = control_.seats[static_cast<std::size_t>(i)];
        seat.posted.fetch_add(1, std::memory_order_release);
        sys::futex_wake_all(seat.posted);
    }
}

void Leader::await(int readers, bool spin) {
    for (int i = 0; i < readers; i++) {
        const auto& seat = control_.seats[static_cast<std::size_t>(i)];
        const std::uint32_t posted = seat.posted.load(std::memory_order_relaxed);
        for (;;) {
            const std::uint32_t done = seat.done.load(std::memory_order_acquire);
            if (done == posted) {
                break;
            }
            wait_while(seat.done, done, spin);
        }
    }
}

const Report& Leader::report(int reader) const {
    return control_.seats[static_cast<std::size_t>(reader)].report;
}

double Leader::bracket() {
    post(1, {.kind = Order::Kind::bracket});
    const auto measured = bracket_.measure();
    await(1, true);
    return measured ? measured.value() : -1;
}

void Leader::quit() {
    for (auto& pid : living) {
        pid.store(0);
    }
    post(readers_, {.kind = Order::Kind::quit});
    for (int i = 0; i < readers_; i++) {
        (void)::waitpid(pids_[static_cast<std::size_t>(i)], nullptr, 0);
    }
}

void follow(Control& control, int reader, const std::function<void(const Order&)>& obey) {
    auto& seat = control.seats[static_cast<std::size_t>(reader)];
    measure::PingPong bracket(control.bracket);
    for (std::uint32_t done = 0;;) {
        // B spins between orders; the others would only take its CPU.
        wait_while(seat.posted, done, reader == 0);
        const Order order = control.order;
        if (order.kind == Order::Kind::quit) {
            return;
        }
        const Usage usage;
        obey(order);
        if (order.kind == Order::Kind::bracket) {
            (void)bracket.answer();
        }
        seat.report = {sys::monotonic_ns(), usage.cpu_ns(), usage.sleeps()};
        seat.done.store(++done, std::memory_order_release);
        sys::futex_wake_all(seat.done);
    }
}

}  // namespace ipcbus::bench
