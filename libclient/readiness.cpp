// SPDX-License-Identifier: Apache-2.0
// See readiness.hpp.
#include "readiness.hpp"

namespace ipcbus::client {

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
    const sys::Result<void> done = alarm_->arm(armed_.bell, armed_.value, armed_.slice_ns);  // [E2]
    if (!done.ok()) {
        waiter.disarm(armed_, false);
        return failed(done.error());
    }
    return 1;
}

}  // namespace ipcbus::client
