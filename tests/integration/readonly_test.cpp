// SPDX-License-Identifier: Apache-2.0
// Goal: a subscriber cannot change the ring that it reads, nor a publisher its readers' cursors, by
// any way through the descriptors and mappings that they get: whether of the publisher's uid or of
// another.
// Method: a private ipcbusd; a publisher and a reader by the library; the attacker is a process of
// its own, with raw frames, or with what the library has mapped for it.
#include "attack.hpp"
#include "bus_client.hpp"
#include "daemon_fixture.hpp"

#include <doctest/doctest.h>

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

void become_nobody() {
    must_be(::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0,
            "setuid nobody");
}

/// An honest publisher and reader, and what the one has sent before and after the attack.
struct Honest {
    explicit Honest(const DaemonFixture& daemon)
        : bus(connect(daemon.address())),
          subscriber(subscribe(bus, "honest")),
          publisher(advertise(bus, "honest", 65536)) {
        (void)::chmod(daemon.directory().path().c_str(), 0755);
        for (int i = 0; i < 50; i++) {
            publish(publisher, "before " + std::to_string(i));
        }
    }
    void check() {
        for (int i = 0; i < 50; i++) {
            CHECK(received_text(subscriber) == "before " + std::to_string(i));
        }
        const std::string large(16'000, 'l');
        for (int i = 0; i < 50; i++) {
            publish(publisher, large);
            REQUIRE(received_text(subscriber) == large);
        }
    }
    Bus bus;
    Subscriber subscriber;
    Publisher publisher;
};

/// Runs `attack` in a process of its own: of the same uid, and in another run of the test, if it
/// may be had, of another. It must come to its end, and the honest must notice nothing.
template <class Attack>
void expect_no_harm(Honest& honest, Attack attack) {
    bool other_uid = false;
    SUBCASE("the same uid") {}
    SUBCASE("another uid") {
        other_uid = may_be_user(65534);
        if (!other_uid) {
            MESSAGE("skipped: this process cannot become another user");
            return;
        }
    }
    ChildProcess child = ChildProcess::fork([&] {
        if (other_uid) {
            become_nobody();
        }
        attack();
        return 0;
    });
    CHECK(child.wait() == 0);
    honest.check();
}

}  // namespace

TEST_CASE("what a reader gets of a publisher cannot be written, by any descriptor") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    expect_no_harm(honest, [&] { attack_as_reader(daemon.socket_path(), "honest"); });
}

TEST_CASE("what a publisher gets of its readers cannot be written, but for the doorbell") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    const Subscriber second = subscribe(honest.bus, "attacker");
    expect_no_harm(honest, [&] { attack_as_publisher(daemon.socket_path(), "attacker"); });
}

TEST_CASE("what the library has mapped read-only stays read-only") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    expect_no_harm(honest, [&] { attack_mappings(daemon.address(), "honest"); });
}
