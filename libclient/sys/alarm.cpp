// SPDX-License-Identifier: Apache-2.0
// See alarm.hpp; the argument for the order of these steps is in protocol/waiter.hpp.
#include "sys/alarm.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace ipcbus::sys {

Result<std::unique_ptr<Alarm>> Alarm::create() {
    std::unique_ptr<Alarm> alarm(new Alarm);
    alarm->fd_.reset(UniqueFd(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)));
    if (!alarm->fd_) {
        return fail_errno("eventfd");
    }
    if (!alarm->take_ring().ok()) {
        IPCBUS_TRY(alarm->take_thread());
    }
    return alarm;
}

Alarm::~Alarm() = default;

Result<void> Alarm::take_ring() {
    ring_.reset();
    ring_ = IPCBUS_TRY(FutexRing::take(fd_.get()));
    return {};
}

Result<void> Alarm::take_thread() {
    ring_.reset();
    thread_ = IPCBUS_TRY(FutexThread::create(fd_.get()));
    return {};
}

void Alarm::call_off() {
    if (thread_ != nullptr) {
        thread_->call_off();
    }
    // A ring's wait is cancelled by the next one. Until then it holds no more than its place.
}

Result<void> Alarm::arm(std::atomic<std::uint32_t>* word, std::uint32_t expected,
                        std::int64_t timeout_ns) {
    Result<void> done;
    if (thread_ == nullptr) {
        done = ring_ != nullptr ? ring_->arm(word, expected, timeout_ns)
                                : Result<void>(fail(EEXIST, "no ring yet"));
        if (!done.ok() && done.error().code == EEXIST && !has_moved_) {
            has_moved_ = ring_ != nullptr;
            done = take_ring();  // of this thread
            if (done.ok()) {
                done = ring_->arm(word, expected, timeout_ns);
            }
        }
        if (!done.ok()) {
            IPCBUS_TRY(take_thread());
        }
    }
    if (thread_ != nullptr) {
        thread_->arm(word, expected, timeout_ns);
    }
    // [E3] What made it readable was of before.
    make_unreadable();
    armed_ = true;
    // [E4] But perhaps it was this, already.
    if (signalled()) {
        make_readable();
    }
    return {};
}

Result<void> Alarm::notify(int number, void* value) {
    if (thread_ == nullptr) {
        if (number == 0) {
            return {};
        }
        IPCBUS_TRY(take_thread());  // no io_uring sends signals
    }
    thread_->notify(number, value);
    return {};
}

bool Alarm::disarm() {
    if (!std::exchange(armed_, false)) {
        return false;
    }
    const bool was = signalled();
    if (!was) {
        make_readable();
    }
    return was;
}

bool Alarm::signalled() {
    return thread_ != nullptr ? thread_->signalled() : ring_ != nullptr && ring_->signalled();
}

void Alarm::make_readable() {
    const std::uint64_t one = 1;
    // EAGAIN: it is, as far as can be counted.
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof one);
}

void Alarm::make_unreadable() {
    std::uint64_t count = 0;
    // EAGAIN: it is not.
    [[maybe_unused]] const auto got = ::read(fd_.get(), &count, sizeof count);
}

}  // namespace ipcbus::sys
