// SPDX-License-Identifier: Apache-2.0
// See readiness.hpp.
#include "readiness.hpp"

#include "sys/clock.hpp"

namespace ipcbus::client {

namespace {

/// As long as the longest slice of a waiter.
constexpr std::int64_t kRestNs = 10'000'000'000;

/// Not armed after all: nobody is to ring for it.
class Undo {
public:
    Undo(protocol::Waiter& waiter, const protocol::Waiter::Armed& armed)
        : waiter_(waiter), armed_(armed) {}
    ~Undo() {
        if (!dismissed_) {
            waiter_.disarm(armed_, false);
        }
    }
    Undo(const Undo&) = delete;
    Undo& operator=(const Undo&) = delete;
    void dismiss() { dismissed_ = true; }

private:
    protocol::Waiter& waiter_;
    const protocol::Waiter::Armed& armed_;
    bool dismissed_ = false;
};

}  // namespace

sys::Result<std::unique_ptr<Readiness>> Readiness::create() {
    return std::unique_ptr<Readiness>(new Readiness(IPCBUS_TRY(sys::Alarm::create())));
}

void Readiness::disarm(protocol::Waiter& waiter) {
    if (alarm_->armed()) {
        const bool ended = alarm_->disarm();  // [E5]
        waiter.disarm(armed_, ended);
    }
}

int Readiness::arm(protocol::Waiter& waiter, protocol::Elsewhere& elsewhere) {
    alarm_->call_off();
    if (!waiter.arm(elsewhere, armed_)) {
        return 0;
    }
    Undo undo(waiter, armed_);
    const sys::Result<void> done = alarm_->arm(armed_.bell, armed_.value, armed_.slice_ns);  // [E2]
    if (!done.ok()) {
        return failed(done.error());
    }
    undo.dismiss();
    armed_.ends_ns = alarm_->ends_ns();
    return 1;
}

void Readiness::rest(protocol::Waiter& waiter) {
    // Also if it is armed already: that may be over, and perhaps nobody would look again.
    disarm(waiter);
    alarm_->call_off();
    armed_ = {nullptr, 0, kRestNs, sys::monotonic_ns() + kRestNs, 0};
    // An Error: it stays readable, which costs the caller's loop its rest, and nothing else.
    if (alarm_->arm(armed_.bell, armed_.value, armed_.slice_ns).ok()) {
        armed_.ends_ns = alarm_->ends_ns();
    }
}

}  // namespace ipcbus::client
