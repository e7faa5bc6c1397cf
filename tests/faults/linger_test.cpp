// SPDX-License-Identifier: Apache-2.0
// Goal: no fault makes the daemon believe that a process is dead that lives, or the other way
// round: what it has stays charged to it, and comes back. Method: processes that close their
// connection and live on with their ring, while what watches them fails.
#include "raw_client.hpp"
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <unistd.h>

#include <functional>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// Has a ring of 1 MiB of the daemon, and goes on having it when its connection is closed.
class Holder {
public:
    explicit Holder(const FaultyDaemon& daemon)
        : process_(ChildProcess::fork([this, &daemon] { return hold(daemon.socket_path()); })) {
        REQUIRE(steps_->wait(1));
    }
    void hang_up() {
        go_on_->raise();
        REQUIRE(steps_->wait(2));
    }
    void kill() {
        process_.signal(SIGKILL);
        CHECK(process_.wait().value_or(-1) == 128 + SIGKILL);
    }

private:
    int hold(const std::string& socket_path) {
        RawClient client = RawClient::on_bus(socket_path, "holder");
        client.mapped(client.advertise("held", 1 << 20).publication);
        client.drain();
        steps_->raise();
        (void)go_on_->wait(1);
        client.close();
        steps_->raise();
        for (;;) {
            (void)::pause();
        }
    }

    SharedBlock<Milestone> steps_;
    SharedBlock<Milestone> go_on_;
    ChildProcess process_;
};

/// What a holder has is charged as long as it lives, whatever fails when it hangs up.
void check_holder(Call call, int error) {
    const std::string which = call_name(call);
    INFO(which);
    Scenario scenario;
    Holder holder(scenario.daemon);
    scenario.daemon.arm(call, error, 1, kAlways);
    holder.hang_up();
    scenario.settle();
    scenario.witnesses.talk();
    scenario.witnesses.ask();
    scenario.daemon.disarm();
    CHECK_FALSE(scenario.quota_is_back());
    holder.kill();
    scenario.check_recovery();
    scenario.check_quota();
}

}  // namespace

TEST_CASE("a ring that a process may still map stays charged until that process is dead") {
    check_holder(Call::syscall_other, EPERM);  // nothing fails
}

TEST_CASE("so it does where the daemon has no descriptor left to watch the process") {
    check_holder(Call::fcntl_dup, EMFILE);
}

TEST_CASE("and where there is no memory to wait for its death") {
    check_holder(Call::op_poll, ENOMEM);
}
