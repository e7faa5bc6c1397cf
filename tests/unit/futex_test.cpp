// SPDX-License-Identifier: Apache-2.0
// Futex waits and wakes: on a word in one mapping while the waker has another (which is what tells
// a shared futex from a private one), on read-only mappings, with time limits and signals; and the
// arithmetic of Deadline.
#include "sys/futex.hpp"
#include "sys/clock.hpp"
#include "sys/mapping.hpp"
#include "sys/memfd.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace {

using namespace ipcbus::sys;

constexpr std::int64_t kMillisecondNs = 1'000'000;
constexpr std::int64_t kLongNs = 30'000 * kMillisecondNs;  // a test that needs it has failed

std::atomic<std::uint32_t>& word_of(const Mapping& page) {
    return *reinterpret_cast<std::atomic<std::uint32_t>*>(page.data());
}

struct SharedWord {
    UniqueFd fd = std::move(create_memfd("ipcbus-test", 4096)).value();
    Mapping page = std::move(map_shared(fd.get(), 0, 4096, Access::read_write)).value();
    std::atomic<std::uint32_t>& word = word_of(page);
};

/// Waits as users of a futex do: until the word has changed. Says false if the time went by.
bool wait_for_change(const std::atomic<std::uint32_t>& word, std::uint32_t from) {
    const Deadline deadline = Deadline::after(kLongNs);
    while (word.load() == from) {
        if (deadline.passed()) {
            return false;
        }
        (void)futex_wait(word, from, deadline.remaining_ns());
    }
    return true;
}

TEST_SUITE_BEGIN("futex");

TEST_CASE("a word that has changed is not slept on") {
    SharedWord shared;
    shared.word.store(2);
    CHECK(futex_wait(shared.word, 1, kLongNs) == FutexWait::value_changed);
    CHECK(futex_wait(shared.word, 1, -1) == FutexWait::value_changed);
}

TEST_CASE("a wait ends with its time, not before") {
    SharedWord shared;
    const std::int64_t began_ns = monotonic_ns();
    CHECK(futex_wait(shared.word, 0, 5 * kMillisecondNs) == FutexWait::timed_out);
    CHECK(monotonic_ns() - began_ns >= 5 * kMillisecondNs);
    CHECK(futex_wait(shared.word, 0, 0) == FutexWait::timed_out);
}

TEST_CASE("waking reaches a sleeper on a read-only mapping of another address") {
    SharedWord shared;
    const Result<UniqueFd> read_fd = reopen_read_only(shared.fd.get());
    REQUIRE(read_fd.ok());
    Result<Mapping> reader = map_shared(read_fd.value().get(), 0, 4096, Access::read_only);
    REQUIRE(reader.ok());
    REQUIRE(reader.value().data() != shared.page.data());
    bool changed = false;
    std::thread sleeper([&] { changed = wait_for_change(word_of(reader.value()), 0); });
    // No way to know that it sleeps already: either order must end the wait.
    shared.word.store(1);
    futex_wake_all(shared.word);
    sleeper.join();
    CHECK(changed);
}

TEST_CASE("two processes pass a word to and fro, so that each wake is needed") {
    SharedWord shared;
    constexpr std::uint32_t kTurns = 200;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        // the writable mapping is not inherited: this is also another address
        Result<Mapping> page = map_shared(shared.fd.get(), 0, 4096, Access::read_write);
        if (!page.ok()) {
            ::_exit(1);
        }
        auto& word = word_of(page.value());
        for (std::uint32_t turn = 0; turn < kTurns; turn += 2) {
            if (!wait_for_change(word, turn)) {
                ::_exit(2);
            }
            word.store(turn + 2);
            futex_wake_all(word);
        }
        ::_exit(0);
    }
    bool in_time = true;
    const std::int64_t began_ns = monotonic_ns();
    for (std::uint32_t turn = 0; turn < kTurns && in_time; turn += 2) {
        shared.word.store(turn + 1);
        futex_wake_all(shared.word);
        in_time = wait_for_change(shared.word, turn + 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(in_time);
    CHECK(status == 0);
    CHECK(shared.word.load() == kTurns);
    CHECK(monotonic_ns() - began_ns < kLongNs);
}

TEST_CASE("a signal handler ends a wait") {
    SharedWord shared;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = [](int) {};
    REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
    const pthread_t self = ::pthread_self();
    std::atomic<bool> done{false};
    // One signal could come before the wait begins: send until it has ended.
    std::thread sender([&] {
        while (!done.load()) {
            (void)::pthread_kill(self, SIGUSR1);
            std::this_thread::yield();
        }
    });
    CHECK(futex_wait(shared.word, 0, kLongNs) == FutexWait::interrupted);
    done.store(true);
    sender.join();
    REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

TEST_CASE("an address that cannot be waited on says: look again") {
    SharedWord shared;
    auto& word = shared.word;
    shared.page.reset();
    CHECK(futex_wait(word, 0, kLongNs) == FutexWait::value_changed);
    futex_wake_all(word);
}

TEST_CASE("deadlines") {
    CHECK(Deadline::after(-1).never());
    CHECK(Deadline::after(kForeverNs).never());
    CHECK_FALSE(Deadline::after(-1).passed());
    CHECK(Deadline::after(-1).remaining_ns() == kForeverNs);
    CHECK(Deadline::after(0).passed());
    CHECK(Deadline::after(0).remaining_ns() == 0);
    const Deadline later = Deadline::after(kLongNs);
    CHECK_FALSE(later.passed());
    CHECK(later.remaining_ns() > kLongNs / 2);
    CHECK(later.remaining_ns() <= kLongNs);
    CHECK(coarse_ns() <= monotonic_ns());
}

TEST_SUITE_END();

}  // namespace
