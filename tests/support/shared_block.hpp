// SPDX-License-Identifier: Apache-2.0
// Memory that a test shares with the children it forks afterwards, and Milestone, a number in it
// that one process raises and others wait for. Nothing here sleeps or polls. Made by the test, used
// by all its children, any thread.
#pragma once

#include "child_process.hpp"

#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/mapping.hpp"

#include <doctest/doctest.h>

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace ipcbus::test {

/// Only grows.
class Milestone {
public:
    void raise(std::uint32_t by = 1) {
        value_.fetch_add(by, std::memory_order_release);
        sys::futex_wake_all(value_);
    }
    [[nodiscard]] std::uint32_t value() const { return value_.load(std::memory_order_acquire); }
    /// False: it was not reached in time.
    [[nodiscard]] bool wait(std::uint32_t at_least, int timeout_ms = kTimeoutMs) const {
        const sys::Deadline deadline = sys::Deadline::after(std::int64_t{timeout_ms} * 1'000'000);
        for (;;) {
            const std::uint32_t now = value();
            if (now >= at_least || deadline.passed()) {
                return now >= at_least;
            }
            (void)sys::futex_wait(value_, now, deadline.remaining_ns());
        }
    }

private:
    std::atomic<std::uint32_t> value_{0};
};

/// A T in memory that survives fork as one.
template <class T>
class SharedBlock {
public:
    SharedBlock() {
        void* start = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        REQUIRE(start != MAP_FAILED);
        memory_ = sys::Mapping(start, sizeof(T));
        new (start) T;
    }
    T* operator->() const { return reinterpret_cast<T*>(memory_.data()); }
    T& operator*() const { return *operator->(); }

private:
    sys::Mapping memory_;
};

}  // namespace ipcbus::test
