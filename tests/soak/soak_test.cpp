// SPDX-License-Identifier: Apache-2.0
// Goal: after any number of clients that came, advertised, subscribed, published and went, in good
// order, in the middle of something, killed, or leaving a forked child behind, the daemon has what
// it had: descriptors, operations under way, mappings, memory of its own and of memfds. Method: a
// private ipcbusd; children of this process live IPCBUS_TEST_ROUNDS (3,000) lives one after the
// other, every tenth of which ends by SIGKILL; bystanders, who exchange messages meanwhile. What
// the daemon has is read from /proc after a warm-up, and once more at the end. Bounds: descriptors,
// operations and memfds are exactly what they were; mappings up to 16 more, memory of its own up to
// 512 KiB more, which an allocator may keep, however many rounds. Then it ends by SIGTERM with exit
// code 0: built with AddressSanitizer, that says that nothing has leaked.
#include "bus_client.hpp"
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr unsigned kLivesPerChild = 10;

unsigned rounds() {
    const char* text = std::getenv("IPCBUS_TEST_ROUNDS");
    return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : 3000;
}

/// A connection that is dropped in the middle of a frame, or behind its HELLO.
void drop_frame(const std::string& socket_path, unsigned number) {
    auto socket = sys::connect_unix(socket_path, kLongNs);
    must_be(socket.ok(), "connect");
    std::vector<std::byte> hello;
    protocol::encode(hello, protocol::Hello{}, 1);
    const std::size_t bytes = number % (hello.size() + 1);
    (void)::send(socket.value().get(), hello.data(), bytes, MSG_NOSIGNAL);
}

void exchange(const Publisher& out, const Subscriber& in, const std::string& topic) {
    for (int i = 0; i < 3; i++) {
        publish_to(out, topic, "soak");
        must_be(received_text(in) == "soak", "another message");
    }
}

/// One life in good order.
void live(const std::string& address, const std::string& socket_path, unsigned number) {
    const std::string topic = "soak/" + std::to_string(number % 7);
    switch (number % 8) {
    case 0: {
        const Bus bus = connect(address);
        return;
    }
    case 1: {
        const Bus bus = connect(address);
        const Publisher out = advertise(bus, topic);
        publish(out, "nobody reads it");
        return;
    }
    case 2: {
        const Bus bus = connect(address);
        const Subscriber in = subscribe(bus, "soak/+");
        return;
    }
    case 3: {
        const Bus bus = connect(address);
        const Subscriber in = subscribe(bus, topic);
        const Publisher out = advertise(bus, "soak/#");
        exchange(out, in, topic);
        return;
    }
    case 4: {  // by other connections, one of which goes first
        Bus one = connect(address);
        const Bus other = connect(address);
        Publisher out = advertise(one, "soak/#", 256 * 1024);
        const Subscriber in = subscribe(other, topic);
        exchange(out, in, topic);
        publish_to(out, topic, "the last");
        out.reset();
        one.reset();
        must_be(received_text(in) == "the last", "the last message is missing");
        return;
    }
    case 5: {
        const Bus bus = connect(address);
        Subscriber all[3];
        for (Subscriber& in : all) {
            in = subscribe(bus, "#", IPCBUS_LOSSY);  // the bystanders', too
            (void)receive(in, 0);
        }
        return;
    }
    default:
        drop_frame(socket_path, number);
        return;
    }
}

/// The last one of a process: does not come to its end.
[[noreturn]] void die(const std::string& address, unsigned number, int keeper_end) {
    const Bus bus = connect(address, "dying");
    const Subscriber in = subscribe(bus, number % 2 == 0 ? "soak/#" : "#", number % 3);
    const Publisher out = advertise(bus, "soak/9", 65536 << number % 3);
    publish(out, "last words");
    void* data = nullptr;
    switch (number / kLivesPerChild % 5) {
    case 0:
        (void)must(ipcbus_claim(out.get(), 1000, &data), "claim");
        break;
    case 1: {  // a child that nobody has told of the bus keeps every descriptor
        if (::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
            char byte = 0;
            (void)!::read(keeper_end, &byte, 1);  // for a little longer than its parent
            ::_exit(0);
        }
        break;
    }
    case 2: {
        ipcbus_message message{};
        (void)ipcbus_borrow(in.get(), kLongNs, &message);
        break;
    }
    case 3: {  // in the middle of requests
        const Publisher another = advertise(bus, "soak/10");
        ipcbus_subscriber* never = nullptr;
        (void)ipcbus_subscribe(bus.get(), "#", nullptr, &never);
        break;
    }
    default:
        break;
    }
    (void)::raise(SIGKILL);
    ::_exit(kMustFailed);
}

class Soak {
public:
    void run(unsigned count) {
        for (unsigned done = 0; done < count; done += kLivesPerChild) {
            int ends[2];
            REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
            const sys::UniqueFd keeper_end(ends[0]);
            sys::UniqueFd own_end(ends[1]);
            ChildProcess child = ChildProcess::fork([&] {
                own_end.reset();
                for (unsigned i = 1; i < kLivesPerChild; i++) {
                    live(daemon_.address(), daemon_.socket_path(), number_ + i);
                }
                die(daemon_.address(), number_, keeper_end.get());
                return 0;
            });
            number_ += kLivesPerChild;
            REQUIRE(child.wait() == 128 + SIGKILL);
            kills_++;
            own_end.reset();  // a child that it has left behind ends now
        }
    }
    /// What it has once it has let go of whoever has gone: as much as `wanted`, or what it keeps.
    Ledger settled(const Ledger& wanted) {
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        for (;;) {
            watcher_.expect_nothing();
            const Ledger now = Ledger::of(daemon_.process().pid());
            if ((now.descriptors == wanted.descriptors && now.operations == wanted.operations &&
                 now.memfd_bytes == wanted.memfd_bytes) ||
                deadline.passed()) {
                return now;
            }
        }
    }
    Ledger now() { return settled(start_); }
    DaemonFixture& daemon() { return daemon_; }
    Bystanders& bystanders() { return bystanders_; }
    [[nodiscard]] unsigned kills() const { return kills_; }
    void close() { watcher_.close(); }

private:
    DaemonFixture daemon_;
    Bystanders bystanders_{daemon_.address()};
    RawClient watcher_{RawClient::on_bus(daemon_.socket_path(), "watcher")};
    Ledger start_ = (watcher_.expect_nothing(), Ledger::of(daemon_.process().pid()));
    unsigned number_ = 0;
    unsigned kills_ = 0;
};

}  // namespace

TEST_CASE("thousands of clients come and go, and nothing of them stays") {
    Soak soak;
    soak.run(400);  // an allocator keeps what is needed at most
    const Ledger before = soak.now();
    const std::int64_t used_ns = cpu_ns(soak.daemon().process().pid());
    soak.run(rounds());
    const Ledger after = soak.settled(before);
    INFO("before: ", before.text(), "; after: ", after.text());
    CHECK(after.descriptors == before.descriptors);
    CHECK(after.operations == before.operations);
    CHECK(after.memfd_bytes == before.memfd_bytes);
    if (!kSanitized) {
        CHECK(after.mappings <= before.mappings + 16);
        CHECK(after.own_bytes <= before.own_bytes + 512 * 1024);
    }
    soak.bystanders().expect_trips();
    soak.bystanders().finish();
    soak.close();
    MESSAGE(rounds(), " lives, ", soak.kills(), " killed; before: ", before.text(),
            "; after: ", after.text(), "; ",
            (cpu_ns(soak.daemon().process().pid()) - used_ns) / 1000 / rounds(),
            " us of the daemon's CPU each");
    CHECK(soak.daemon().stop().value_or(-1) == 0);
}
