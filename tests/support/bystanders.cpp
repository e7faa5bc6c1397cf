// SPDX-License-Identifier: Apache-2.0
// See bystanders.hpp.
#include "bystanders.hpp"

#include "bus_client.hpp"
#include "checked_message.hpp"

#include "sys/clock.hpp"

#include <cerrno>
#include <ctime>
#include <vector>

namespace ipcbus::test {

namespace {

constexpr const char* kCall = "bystander/call";
constexpr const char* kAnswer = "bystander/answer";
constexpr std::uint64_t kEnd = 0;  ///< the number of the message that ends it
/// So that they do not use a CPU by themselves.
constexpr timespec kPause{0, 200'000};

void send(const Publisher& publisher, std::uint64_t sender, std::uint64_t number) {
    char message[2000];
    const std::size_t bytes = sizeof(CheckedHeader) + mixed(number) % 1900;
    fill_checked(message, bytes, sender, number);
    (void)must(ipcbus_publish(publisher.get(), message, bytes), "a bystander's publish");
}

/// The number of the next message; 0 at the end.
std::uint64_t next(const Subscriber& subscriber, std::uint64_t sender) {
    const Received got = receive(subscriber, kLongNs);
    must_be(got.ok(), "a bystander waits in vain: " + std::to_string(got.result) + ", " +
                          ipcbus_last_error());
    const auto header = read_checked(got.payload.data(), got.payload.size());
    must_be(header.has_value() && header->sender == sender, "a bystander gets a torn message");
    return header->number;
}

/// Whatever the hostile ones have published: every result is one of the table.
void read_others(const Subscriber& subscriber) {
    for (int i = 0; subscriber && i < 4; i++) {
        const Received got = receive(subscriber, 0);
        must_be(is_documented(got.result), "an undocumented result");
        if (!got.ok()) {
            return;
        }
    }
}

}  // namespace

int Bystanders::caller(const std::string& address, const std::string& others, Scene& scene) {
    const Bus bus = connect(address, "caller");
    const Subscriber answers = subscribe(bus, kAnswer);
    const Subscriber all = others.empty() ? Subscriber() : subscribe(bus, others, IPCBUS_LOSSY);
    must_be(scene.ready.wait(1), "nobody answers");
    const Publisher calls = advertise(bus, kCall);
    std::uint64_t number = 0;
    while (scene.over == 0) {
        const std::int64_t begin_ns = sys::monotonic_ns();
        send(calls, 1, ++number);
        must_be(next(answers, 2) == number, "a bystander gets another answer than it waits for");
        scene.longest_ns = std::max<std::int64_t>(scene.longest_ns, sys::monotonic_ns() - begin_ns);
        scene.trips = number;
        if (number == 1) {
            scene.ready.raise();
        }
        scene.progress.raise();
        read_others(all);
        (void)::nanosleep(&kPause, nullptr);
    }
    send(calls, 1, kEnd);
    must_be(next(answers, 2) == kEnd, "the end is not answered");
    must_be(ipcbus_lost(answers.get()) == 0, "a bystander lost messages");
    must_be(ipcbus_reconnects(bus.get()) == 0, "a bystander was thrown out");
    return 0;
}

int Bystanders::answerer(const std::string& address, const std::string& others, Scene& scene) {
    const Bus bus = connect(address, "answerer");
    const Publisher answers = advertise(bus, kAnswer);
    const Subscriber calls = subscribe(bus, kCall);
    const Subscriber all = others.empty() ? Subscriber() : subscribe(bus, others, IPCBUS_LOSSY);
    scene.ready.raise();
    for (std::uint64_t expected = 1;; expected++) {
        const std::uint64_t number = next(calls, 1);
        must_be(number == expected || number == kEnd, "a bystander missed a call");
        send(answers, 2, number);
        if (number == kEnd) {
            must_be(ipcbus_lost(calls.get()) == 0, "a bystander lost messages");
            must_be(ipcbus_reconnects(bus.get()) == 0, "a bystander was thrown out");
            return 0;
        }
        read_others(all);
    }
}

Bystanders::Bystanders(const std::string& address, const std::string& others) {
    Scene& scene = *scene_;
    answerer_ = ChildProcess::fork([&] { return answerer(address, others, scene); });
    caller_ = ChildProcess::fork([&] { return caller(address, others, scene); });
    REQUIRE(scene.ready.wait(2));
}

Bystanders::~Bystanders() { finish(); }

void Bystanders::expect_trips(std::uint64_t trips) {
    const auto before = scene_->progress.value();
    INFO("bystanders must go on");
    CHECK(scene_->progress.wait(before + static_cast<std::uint32_t>(trips)));
}

void Bystanders::finish() {
    if (finished_) {
        return;
    }
    finished_ = true;
    scene_->over = 1;
    CHECK(caller_.wait() == 0);
    CHECK(answerer_.wait() == 0);
}

}  // namespace ipcbus::test
