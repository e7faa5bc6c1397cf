// SPDX-License-Identifier: Apache-2.0
// See survivors.hpp.
#include "survivors.hpp"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

namespace ipcbus::torture {

using std::to_string;
using test::ChildProcess;
using test::must;
using test::must_be;

namespace {

const std::int64_t kPatienceNs = 15 * test::kSecondNs * test::patience();
/// Never waited for: whoever is held by the dead is freed by their death alone. (The most is 1 h.)
const std::string kConfig = "[publications]\nrings_ready = 0\nstall_timeout = \"" +
                            to_string(std::min(3600, 100 * test::patience())) + "s\"\n";
/// Of what an allocator keeps.
constexpr std::uint64_t kHeapGrowthMax = 512 << 10;

/// Reads as seldom as possible: parked and asleep before each message.
int play_sleeper(const std::string& address, Stage& stage) {
    const test::Bus bus = test::connect(address, "sleeper");
    const test::Subscriber reader = test::subscribe(bus, kAll, IPCBUS_RELIABLE, -1);
    stage.sleeper_ready.raise();
    std::vector<char> buffer(kRing);
    for (;;) {
        ipcbus_message message;
        (void)must(
            ipcbus_receive(reader.get(), buffer.data(), buffer.size(), IPCBUS_FOREVER, &message),
            "receive");
        const auto header = test::read_checked(message.data, message.size);
        must_be(header && header->number == message.sequence, "the sleeper has a torn message");
        if (header->sender == kOwn) {
            must_be(header->number == stage.sleeper_own + 1, "the sleeper misses a message");
            stage.sleeper_own = header->number;
        } else {
            const bool same = header->sender == stage.sleeper_victim;
            must_be(header->number == (same ? stage.sleeper_number + 1 : 1),
                    "the sleeper misses a message of a victim");
            stage.sleeper_number = header->number;
            stage.sleeper_victim = header->sender;
        }
        stage.sleeper_read.raise();
    }
}

/// Publishes as much as a reader lets it.
int play_writer(const std::string& address, Stage& stage) {
    const test::Bus bus = test::connect(address, "writer");
    const test::Publisher publisher = test::advertise(bus, kWriterTopic, kRing);
    const std::string text(kMessage, 'w');
    stage.writer_ready.raise();
    for (;;) {
        (void)must(ipcbus_wait_subscribers(publisher.get(), 1, IPCBUS_FOREVER), "wait");
        while (ipcbus_subscriber_count(publisher.get()) != 0) {
            test::publish(publisher, text);
            stage.writer_published++;
        }
        stage.writer_published = 0;
        stage.writer_free.raise();
    }
}

/// 'S': it sleeps in the kernel.
char state_of(pid_t pid) {
    std::ifstream stat("/proc/" + to_string(pid) + "/stat");
    std::string text;
    std::getline(stat, text);
    const std::size_t end = text.rfind(')');
    return end == std::string::npos || end + 2 >= text.size() ? '?' : text[end + 2];
}

}  // namespace

Survivors::Survivors(const Operation& operation, Stage& stage)
    : operation_(operation), stage_(stage), daemon_(kConfig) {
    sleeper_ = ChildProcess::fork([&] { return play_sleeper(daemon_.address(), stage_); });
    REQUIRE(stage_.sleeper_ready.wait(1));
    if (operation.needs_writer) {
        writer_ = ChildProcess::fork([&] { return play_writer(daemon_.address(), stage_); });
        REQUIRE(stage_.writer_ready.wait(1));
    }
    bus_ = test::connect(daemon_.address(), "survivor");
    reader_ = test::subscribe(bus_, kAll);
    publisher_ = test::advertise(bus_, kOwnTopic, kRing, kPatienceNs);
    { const test::Subscriber request = test::subscribe(bus_, "settle"); }
    descriptors_ = daemon_.process().descriptor_count();
}

std::uint64_t Survivors::expect_victim() {
    stage_.begun = 0;
    stage_.published = 0;
    stage_.returned = 0;
    victim_read_ = 0;
    fault_.clear();
    return ++victim_;
}

void Survivors::publish_own() {
    std::array<char, kMessage> message;
    test::fill_checked(message.data(), message.size(), kOwn, ++own_published_);
    (void)must(ipcbus_publish(publisher_.get(), message.data(), message.size()), "publish");
}

/// One message of either sender, checked.
std::string Survivors::read_one(std::int64_t timeout_ns, bool& ret_read) {
    ipcbus_message message;
    const int result =
        ipcbus_receive(reader_.get(), buffer_.data(), buffer_.size(), timeout_ns, &message);
    ret_read = result == 0;
    if (result == -ETIMEDOUT || result == -EAGAIN) {
        return {};
    }
    if (result != 0) {
        return "the reader: " + to_string(result) + ": " + ipcbus_last_error();
    }
    const auto header = test::read_checked(message.data, message.size);
    if (!header || header->number != message.sequence) {
        return "a torn message";
    }
    if (header->sender != kOwn && header->sender != victim_) {
        return "a message of somebody who is long dead";
    }
    std::uint64_t& last = header->sender == kOwn ? own_read_ : victim_read_;
    if (header->number != ++last) {
        return "message " + to_string(header->number) + " instead of " + to_string(last);
    }
    return {};
}

/// Until nothing is left of the victim, and nothing of our own.
std::string Survivors::read_all() {
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (;;) {
        bool read = false;
        if (std::string fault = read_one(5 * test::kMillisecondNs, read); !fault.empty()) {
            return fault;
        }
        // Its ring may be yet to come: readers get it when the daemon has sealed it.
        if (!read && own_read_ == own_published_ && victim_read_ >= stage_.published &&
            ipcbus_publication_count(reader_.get()) == 1) {
            return {};
        }
        if (deadline.passed()) {
            return "the reader waits for the dead: has " +
                   to_string(ipcbus_publication_count(reader_.get())) + " publications, " +
                   to_string(own_read_) + " of " + to_string(own_published_) + " messages, " +
                   to_string(victim_read_) + " of " + to_string(stage_.published) +
                   " of the victim";
        }
    }
}

/// What a blocked victim waits for.
void Survivors::read_half() {
    bool read = true;
    for (std::size_t i = 0; i < kRing / 2 / kMessage && read && fault_.empty(); i++) {
        fault_ = read_one(0, read);
    }
}

void Survivors::before_call() {
    for (int i = 0; operation_.news && i < 3; i++) {
        publish_own();
    }
    // Asleep for sure: it has read what there was, and then the kernel says so.
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    while (operation_.sleeper_sleeps && !deadline.passed() &&
           (stage_.sleeper_number < stage_.published || stage_.sleeper_victim != victim_ ||
            state_of(sleeper_.pid()) != 'S')) {
        ::sched_yield();
    }
}

void Survivors::help() {
    if (operation_.help != nullptr) {
        operation_.help({[this] { publish_own(); }, [this] { read_half(); }});
    }
}

/// The daemon answers, and has settled where a new reader of each ring begins.
std::string Survivors::check_late_reader() {
    const test::Subscriber late = test::subscribe(bus_, kAll);
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (;;) {
        const std::uint32_t known = ipcbus_publication_count(reader_.get());
        const std::uint32_t found = ipcbus_publication_count(late.get());
        if (found == known) {
            return {};
        }
        if (deadline.passed()) {
            return "a new reader has " + to_string(found) + " publications, not " +
                   to_string(known);
        }
        (void)ipcbus_receive(late.get(), buffer_.data(), buffer_.size(), test::kMillisecondNs,
                             nullptr);
        // What has ended is to be gone for the old reader, too: it reads it to its end.
        bool read = false;
        if (std::string fault = read_one(0, read); !fault.empty()) {
            return fault;
        }
    }
}

std::string Survivors::check_beside_stopped() {
    for (int i = 0; i < 5; i++) {
        publish_own();
    }
    if (std::string fault = check_late_reader(); !fault.empty()) {
        return fault;
    }
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    while (own_read_ < own_published_) {
        bool read = false;
        if (std::string fault = read_one(test::kMillisecondNs, read); !fault.empty()) {
            return fault;
        }
        if (deadline.passed()) {
            return "beside a victim that stands still, a message does not come";
        }
    }
    return {};
}

/// The sleeper has what the reader has.
std::string Survivors::wait_for_sleeper() {
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (;;) {
        const std::uint32_t before = stage_.sleeper_read.value();
        const bool victims = victim_read_ == 0 || (stage_.sleeper_victim == victim_ &&
                                                   stage_.sleeper_number == victim_read_);
        if (victims && stage_.sleeper_own == own_read_) {
            return {};
        }
        if (!sleeper_.running()) {
            return "the sleeper has failed";
        }
        if (deadline.passed()) {
            return "the sleeper sleeps: has " + to_string(stage_.sleeper_own) + " of " +
                   to_string(own_read_) + ", and " + to_string(stage_.sleeper_number) +
                   " of victim " + to_string(stage_.sleeper_victim) + ", not " +
                   to_string(victim_read_) + " of " + to_string(victim_);
        }
        (void)stage_.sleeper_read.wait(before + 1, 1000);
    }
}

/// Nothing is left of the victim.
std::string Survivors::settle() {
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (;;) {
        {
            const test::Subscriber request = test::subscribe(bus_, "settle");
        }
        const std::size_t now = daemon_.process().descriptor_count();
        const std::uint32_t readers = ipcbus_subscriber_count(publisher_.get());
        if (now <= descriptors_ && readers == 2) {
            return {};
        }
        if (deadline.passed()) {
            return "the daemon has " + to_string(now) + " descriptors instead of " +
                   to_string(descriptors_) + ", the publisher " + to_string(readers) + " readers";
        }
    }
}

void Survivors::note_usage() { usage_ = test::Ledger::of(daemon_.process().pid()); }

std::string Survivors::check_usage() {
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (;;) {
        if (std::string fault = settle(); !fault.empty()) {
            return fault;
        }
        const test::Ledger now = test::Ledger::of(daemon_.process().pid());
        const bool heap_fits =
            test::kSanitized ||
            (now.own_bytes <= usage_.own_bytes + kHeapGrowthMax && now.mappings <= usage_.mappings);
        if (now.descriptors <= usage_.descriptors && now.memfd_bytes <= usage_.memfd_bytes &&
            now.operations <= usage_.operations && heap_fits) {
            return {};
        }
        if (deadline.passed()) {
            return "the daemon has " + now.text() + "; it had " + usage_.text();
        }
    }
}

std::string Survivors::check_after_death() {
    std::string fault = fault_.empty() ? read_all() : fault_;
    if (!fault.empty()) {
        return fault;
    }
    if (victim_read_ < stage_.published || victim_read_ > stage_.begun) {
        return "read " + to_string(victim_read_) + " messages of the victim, which has published " +
               to_string(stage_.published) + " and begun " + to_string(stage_.begun);
    }
    // More than the ring holds: nobody waits for the dead.
    for (std::size_t i = 0; i < 2 * kRing / kMessage && fault.empty(); i++) {
        publish_own();
        bool read = false;
        fault = read_one(test::kLongNs, read);
    }
    if (fault.empty()) {
        fault = wait_for_sleeper();
    }
    if (fault.empty() && operation_.needs_writer &&
        !stage_.writer_free.wait(static_cast<std::uint32_t>(victim_ - kOwn))) {
        fault = "the writer is still blocked by the dead";
    }
    return fault.empty() ? settle() : fault;
}

}  // namespace ipcbus::torture
