// SPDX-License-Identifier: Apache-2.0
// See scenario.hpp.
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace ipcbus::test {

namespace {

/// Small enough that a client can take all of it in milliseconds.
constexpr const char* kLimits = R"(
    [limits.per_uid]
    clients = 12
    publications = 64
    subscriptions = 32
    descriptors = 100
    ring_bytes = "8MiB"
)";
constexpr std::uint64_t kSmallRing = 65536;
/// Reserved by a kernel worker, and closed by one.
constexpr std::uint64_t kLargeRing = std::uint64_t{2} << 20;
constexpr int kSettleMs = 300;
constexpr unsigned kWitnesses = 3;
/// One listens.
constexpr unsigned kSockets = 1 + kWitnesses;

struct Step {
    const char* name;
    int result;
};

int connect_victim(const std::string& address, Bus& ret_bus) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    options.name = "victim";
    options.flags = IPCBUS_NO_RECONNECT;
    ipcbus_bus* bus = nullptr;
    const int result = ipcbus_connect(&options, &bus);
    ret_bus.reset(bus);
    return result;
}

int advertise_victim(const Bus& bus, const char* topic, std::uint64_t bytes, Publisher& ret) {
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = bytes;
    ipcbus_publisher* publisher = nullptr;
    const int result = ipcbus_advertise(bus.get(), topic, &options, &publisher);
    ret.reset(publisher);
    return result;
}

int subscribe_victim(const Bus& bus, const char* filter, Subscriber& ret) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    ipcbus_subscriber* subscriber = nullptr;
    const int result = ipcbus_subscribe(bus.get(), filter, &options, &subscriber);
    ret.reset(subscriber);
    return result;
}

int receive_victim(const Subscriber& subscriber) {
    char buffer[64];
    ipcbus_message message{};
    return ipcbus_receive(subscriber.get(), buffer, sizeof buffer, kLongNs, &message);
}

/// Everything that makes the daemon do something, in order. The first that fails, or {"", 0}.
Step live(const std::string& address) {
    Bus bus;
    Publisher early, large, late;
    Subscriber own, talk;
    int result = 0;
    const auto failed = [&result](int now) { return (result = now) < 0; };
    if (failed(connect_victim(address, bus))) {
        return {"connect", result};
    }
    if (failed(advertise_victim(bus, "victim/early", kSmallRing, early))) {
        return {"advertise", result};
    }
    if (failed(advertise_victim(bus, "victim/large", kLargeRing, large))) {
        return {"advertise a large ring", result};
    }
    if (failed(subscribe_victim(bus, "victim/#", own))) {
        return {"subscribe", result};
    }
    if (failed(subscribe_victim(bus, kTalkTopic, talk))) {
        return {"subscribe to a bystander", result};
    }
    if (failed(advertise_victim(bus, "victim/late", 0, late))) {
        return {"advertise to a subscriber", result};
    }
    for (const Publisher* publisher : {&early, &large, &late}) {
        if (failed(ipcbus_publish(publisher->get(), "hello", 5))) {
            return {"publish", result};
        }
        if (failed(receive_victim(own))) {
            return {"receive", result};
        }
    }
    talk.reset();
    own.reset();
    late.reset();
    return {"", 0};  // the others end with their client
}

template <std::size_t kBytes>
void copy(char (&to)[kBytes], const char* from) {
    (void)std::snprintf(to, kBytes, "%s", from);
}

}  // namespace

bool all_faults() { return std::getenv("IPCBUS_TEST_ALL_FAULTS") != nullptr; }

// ------------------------------------------------------------------------------------ witnesses

/// Until it is killed; each message and each victim's coming and going wakes it.
int sleep_and_read(const std::string& address, Milestone& ready) {
    const Bus bus = connect(address, "sleeper", IPCBUS_NO_RECONNECT);
    const Subscriber subscriber = subscribe(bus, "victim/#", IPCBUS_LOSSY);
    ready.raise();
    for (;;) {
        const Received received = receive(subscriber, IPCBUS_FOREVER);
        must_be(received.ok() || received.result == -ESTALE, "the sleeper is disturbed");
    }
}

Witnesses::Witnesses(FaultyDaemon& daemon)
    : sleeper_(ChildProcess::fork([&] { return sleep_and_read(daemon.address(), *ready_); })),
      writer_bus_(connect(daemon.address(), "writer")),
      reader_bus_(connect(daemon.address(), "reader")),
      writer_(advertise(writer_bus_, kTalkTopic)),
      reader_(subscribe(reader_bus_, kTalkTopic)) {
    daemon.block()->spared_pids[1] = sleeper_.pid();
    REQUIRE(ready_->wait(1));
    talk();
}

void Witnesses::check_sleeper() { CHECK(sleeper_.running()); }

void Witnesses::talk() {
    const std::string text = "message " + std::to_string(++said_);
    publish(writer_, text);
    CHECK(received_text(reader_) == text);
}

void Witnesses::ask() {
    for (const Bus* bus : {&writer_bus_, &reader_bus_}) {
        (void)subscribe(*bus, "nobody/is/here");
        CHECK(ipcbus_state(bus->get()) == IPCBUS_CONNECTED);
        CHECK(ipcbus_reconnects(bus->get()) == 0);
    }
}

// -------------------------------------------------------------------------------------- scenario

namespace {

FaultyDaemon& started(FaultyDaemon& daemon, const std::function<void(FaultyDaemon&)>& prepare) {
    if (prepare) {
        prepare(daemon);
    }
    daemon.must_start();
    return daemon;
}

}  // namespace

struct Scenario::Told {
    char step[64];
    int code;
    char text[1024];
};

Scenario::Scenario(unsigned rings_ready, const std::function<void(FaultyDaemon&)>& prepare)
    : daemon("[publications]\nring_bytes = \"64KiB\"\nrings_ready = " +
             std::to_string(rings_ready) + "\n" + kLimits),
      witnesses(started(daemon, prepare)) {
    clean_victim();
    // The witnesses' pages, and those kept ready.
    REQUIRE(daemon.wait_until([&] {
        witnesses.ask();
        before_ = daemon.holdings();
        return before_.count("socket") == kSockets && before_.count("/memfd:ipcbus-mailbox") == 1 &&
               before_.count("/memfd:ipcbus-cursor") == 4 &&
               before_.count("/memfd:ipcbus-doorbell") == 4 &&
               before_.count("/memfd:ipcbus-ring") == 1 + rings_ready &&
               before_.count("anon_inode:[pidfd]") == kWitnesses;
    }));
    quota_before_ = hog();
}

Outcome Scenario::victim() {
    const SharedBlock<Told> told;
    ChildProcess child = ChildProcess::fork([&] {
        const Step step = live(daemon.address());
        if (step.result < 0) {
            copy(told->step, step.name);
            told->code = -step.result;
            copy(told->text, ipcbus_last_error());
        }
        return 0;
    });
    CHECK(child.wait().value_or(-1) == 0);
    return Outcome{told->step, told->code, told->text};
}

void Scenario::clean_victim() {
    const Outcome outcome = victim();
    INFO(outcome.words());
    CHECK(outcome.ok());
}

/// What it could have, and how it was told that there is no more.
std::string Scenario::hog() {
    const SharedBlock<Told> told;
    ChildProcess child = ChildProcess::fork([&] {
        std::string text;
        std::vector<Bus> buses;
        int result = 0;
        while (result >= 0) {
            buses.emplace_back();
            result = connect_victim(daemon.address(), buses.back());
        }
        text += std::to_string(buses.size()) + " clients: " + ipcbus_last_error() + "; ";
        buses.resize(1);
        for (const std::uint64_t bytes : {std::uint64_t{1} << 20, std::uint64_t{4096}}) {
            std::vector<Publisher> publishers;
            for (result = 0; result >= 0;) {
                publishers.emplace_back();
                result = advertise_victim(buses.front(), "hog", bytes, publishers.back());
            }
            text += std::to_string(publishers.size()) + " rings: " + ipcbus_last_error() + "; ";
        }
        copy(told->text, text.c_str());
        return 0;
    });
    CHECK(child.wait().value_or(-1) == 0);
    return told->text;
}

bool Scenario::quota_is_back() {
    settle();
    return hog() == quota_before_;
}

void Scenario::check_quota() {
    settle();
    CHECK(hog() == quota_before_);
}

void Scenario::settle() {
    (void)daemon.wait_until(
        [&] {
            const Holdings now = daemon.holdings();
            return now.count("socket") <= kSockets && now.count("anon_inode:[pidfd]") <= kWitnesses;
        },
        kSettleMs);
}

sys::UniqueFd connect_silently(const std::string& path) {
    sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    return fd;
}

void Scenario::check_recovery_beside(unsigned silent) {
    clean_victim();
    witnesses.talk();
    witnesses.check_sleeper();
    Holdings wanted = before_;
    wanted.descriptors["socket"] += silent;
    wanted.descriptors["anon_inode:[pidfd]"] += silent;
    Holdings now;
    const bool same = daemon.wait_until([&] {
        witnesses.ask();  // they have to say that they have let go of the victim's pages
        now = daemon.holdings();
        return now == wanted;
    });
    if (!same) {
        INFO("wanted: ", wanted.text());
        INFO("now: ", now.text());
        CHECK(same);
    }
}

}  // namespace ipcbus::test
