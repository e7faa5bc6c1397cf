// SPDX-License-Identifier: Apache-2.0
// Readiness: the descriptor of a subscriber or a set for event loops. Readable unless armed; armed
// when a call has found nothing. Used by the thread of its handle. Costs nothing on a call that
// finds a message the short way: arming makes the next call take the long one.
// Checked: tests/model/wake.pml (-DLOOP).
#pragma once

#include "error_text.hpp"
#include "protocol/waiter.hpp"
#include "sys/alarm.hpp"

#include <memory>

namespace ipcbus::client {

class Readiness {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Readiness>> create();

    [[nodiscard]] int fd() const { return alarm_->fd(); }
    [[nodiscard]] bool armed() const { return alarm_->armed(); }

    /// A call begins: [E5] of protocol/waiter.hpp, if it is armed.
    void disarm(protocol::Waiter& waiter);
    /// [E1] to [E4]. 1: armed. 0: there is news, look again. Or -errno: it cannot be.
    int arm(protocol::Waiter& waiter, protocol::Elsewhere& elsewhere);
    /// A signal each time that it is readable by what it was armed for. Must not be armed.
    [[nodiscard]] sys::Result<void> notify(int signal, void* value) {
        return alarm_->notify(signal, value);
    }
    /// A call begins that could not receive anything: disarmed, and not readable for a while,
    /// whatever is rung, until the next disarm().
    void rest(protocol::Waiter& waiter);
    /// Before the pages with the bell go. Must not be armed.
    void let_go() { alarm_->call_off(); }

private:
    explicit Readiness(std::unique_ptr<sys::Alarm> alarm) : alarm_(std::move(alarm)) {}

    std::unique_ptr<sys::Alarm> alarm_;
    protocol::Waiter::Armed armed_;
};

/// Calls `wait`, which takes how long to wait. When it has found nothing and there is a descriptor,
/// that is armed: what comes while it is, is found here. `armed` is called once it is. Bounded: if
/// there always is news that no look can find, the descriptor stays readable; the waiter counts
/// that, too, and naps in the end.
template <class Wait, class Armed>
int wait_or_arm(Readiness* readiness, protocol::Waiter& waiter, protocol::Elsewhere& elsewhere,
                std::int64_t timeout_ns, Wait&& wait, Armed&& armed) {
    constexpr int kTries = 2;
    int first = -EAGAIN;
    for (int tries = 0;; tries++) {
        const int found = wait(tries == 0 ? timeout_ns : 0);  // in one place: it is inlined
        if (readiness == nullptr || (found != -EAGAIN && found != -ETIMEDOUT)) {
            return found;
        }
        first = tries == 0 ? found : first;
        if (tries == kTries) {
            return first;
        }
        const int done = readiness->arm(waiter, elsewhere);
        if (done < 0) {
            return done;
        }
        if (done != 0) {
            armed();
            return first;
        }
    }
}

}  // namespace ipcbus::client
