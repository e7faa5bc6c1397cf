// SPDX-License-Identifier: Apache-2.0
// Goal: queues that are full, and a kernel that has no memory for requests, cost time and nothing
// else. Method: the real queues made as small as they can be, timers and watches that cannot be
// set, an io_uring that fails for good.
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <cstring>
#include <string>

using namespace ipcbus;
using namespace ipcbus::test;

TEST_CASE("one entry to submit, two to complete: everything waits its turn, nothing is lost") {
    Scenario scenario(2, [](FaultyDaemon& daemon) {
        daemon.block()->submission_entries = 1;
        daemon.block()->completion_entries = 2;
    });
    CHECK(scenario.daemon.block()->overflows.load() > 0);
    for (int i = 0; i < 5; i++) {
        scenario.check_recovery();
    }
    scenario.check_quota();
}

TEST_CASE("a timer for which there is no memory is no reason to spin") {
    Scenario scenario;
    FaultyDaemon& daemon = scenario.daemon;
    daemon.arm(Call::op_timeout, ENOMEM, 1, kAlways);
    // It has said nothing, so a timer is to end it.
    const sys::UniqueFd silent = connect_silently(daemon.socket_path());
    CHECK(daemon.wait_until([&] { return daemon.failed(Call::op_timeout) > 0; }));
    const std::uint32_t turns = daemon.block()->turns.load();
    for (int i = 0; i < 10; i++) {
        scenario.witnesses.talk();
        scenario.witnesses.ask();
    }
    CHECK(daemon.block()->turns.load() - turns < 400);
    daemon.disarm();
    scenario.check_recovery_beside(1);
}

TEST_CASE("a signal is taken though watching for it has failed") {
    FaultyDaemon daemon;
    daemon.arm(Call::op_poll, ENOMEM, 1, 3);
    daemon.must_start();
    CHECK(daemon.wait_until([&] { return daemon.failed(Call::op_poll) > 0; }));
    daemon.process().signal(SIGHUP);
    CHECK(daemon.process().wait_for_output("SIGHUP: ", 0, 5000) != std::string::npos);
    CHECK(daemon.stop().value_or(-1) == 0);
}

TEST_CASE("an io_uring that fails for good ends the daemon, with the reason") {
    for (const Call call : {Call::io_uring_submit_wait, Call::io_uring_submit_get}) {
        const std::string which = call_name(call);
        INFO(which);
        FaultyDaemon daemon;
        daemon.must_start();
        const Bus bus = connect(daemon.address());
        const Publisher publisher = advertise(bus, "a");
        const Subscriber subscriber = subscribe(bus, "a");
        publish(publisher, "there");
        CHECK(received_text(subscriber) == "there");
        daemon.arm(call, EBADR, 1, kAlways);
        // Not every turn makes that call.
        const std::string address = daemon.address();
        ipcbus_connect_options options = IPCBUS_INIT(options);
        options.address = address.c_str();
        unsigned connections = 0;
        ipcbus_bus* other = nullptr;
        while (connections < 100 && ipcbus_connect(&options, &other) == 0) {
            connections++;
            ipcbus_close(other);
        }
        CHECK(connections < 100);
        CHECK(daemon.process().wait().value_or(-1) == 1);
        CHECK(daemon.process().output().find(std::string("io_uring_enter: ") +
                                             std::strerror(EBADR)) != std::string::npos);
        // Those who are attached to each other do not need it.
        publish(publisher, "still here");
        CHECK(received_text(subscriber) == "still here");
    }
}
