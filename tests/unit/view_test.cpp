// SPDX-License-Identifier: Apache-2.0
// Goal: rates, sums and who belongs to whom are right, and what cannot be known is not made up.
// Method: states by hand. Pure.
#include "stat/view.hpp"

#include <doctest/doctest.h>

#include <unistd.h>

using namespace ipcbus;
using namespace ipcbus::stats;
using protocol::u32;
using protocol::u8;

namespace {

constexpr u64 kSecondNs = 1'000'000'000;

protocol::AttachmentEntry attachment(u64 id, u64 received, u64 lost, u64 lag, u8 flags = 0,
                                     u8 mode = 0) {
    return {.attachment = id,
            .subscription = 20,
            .publication = 10 + id % 2,
            .reader = 2,
            .writer = 1,
            .mode = mode,
            .flags = flags,
            .lag_bytes = lag,
            .lag_messages = lag / 16,
            .received = received,
            .lost = lost,
            .sleeps = received / 2,
            .topic = id % 2 != 0 ? "b" : "a/1"};
}

/// One client publishes 10 `a/1` and 11 `b`, another subscribes to both.
State state(u64 at_s, u64 messages, std::vector<protocol::AttachmentEntry> attachments) {
    State made;
    const u64 time_ns = at_s * kSecondNs;
    made.bus[0] = 7;
    made.own_client = 3;
    made.clients.push_back(
        {{.client = 1, .uid = 1000, .sleeps = messages, .name = "pump"}, time_ns});
    made.clients.push_back({{.client = 2, .uid = 1000, .name = "logger"}, time_ns});
    made.clients.push_back(
        {{.client = 3, .pid = static_cast<u32>(::getpid()), .name = {}}, time_ns});
    for (const u64 id : {10, 11}) {
        protocol::PublicationEntry entry;
        entry.publication = id;
        entry.client = 1;
        entry.ring_bytes = 1024;
        entry.messages = messages;
        entry.bytes = 32 * messages;
        entry.topic = id == 11 ? "b" : "a/1";
        made.publications.push_back({entry, time_ns});
    }
    made.subscriptions.push_back(
        {{.subscription = 20, .client = 2, .attachments = 2, .filter = "#"}, time_ns});
    for (auto& entry : attachments) {
        made.attachments.push_back({entry, time_ns});
    }
    return made;
}

}  // namespace

TEST_SUITE_BEGIN("view");

TEST_CASE("rates are what was counted between two looks") {
    const State before = state(100, 50, {attachment(30, 10, 0, 0), attachment(31, 10, 2, 0)});
    const State now = state(102, 150, {attachment(30, 20, 0, 0), attachment(31, 40, 6, 0)});
    const View view = make_view(now, &before, {});
    CHECK(view.has_rates);
    CHECK(view.clients[0].sleeps == 50);
    CHECK(view.publications[0].messages == 50);
    CHECK(view.publications[0].bytes == 1600);
    CHECK(view.attachments[0].received == 5);
    CHECK(view.subscriptions[0].received_rate == 20);
    CHECK(view.subscriptions[0].lost_rate == 2);
    CHECK(view.subscriptions[0].received == 60);
    CHECK(view.subscriptions[0].lost == 6);
}

TEST_CASE("what is new was counted from 0; what ran backwards, or is of another bus, is unknown") {
    const State before = state(100, 50, {attachment(30, 10, 0, 0)});
    State now = state(102, 20, {attachment(30, 9, 0, 0), attachment(31, 40, 0, 0)});
    View view = make_view(now, &before, {});
    CHECK_FALSE(view.publications[0].messages.has_value());
    CHECK_FALSE(view.clients[0].sleeps.has_value());
    CHECK(view.attachments[1].received == 20);
    CHECK_FALSE(view.attachments[0].received.has_value());
    CHECK_FALSE(view.subscriptions[0].received_rate.has_value());
    // No time has passed, or less than none.
    now = state(100, 90, {attachment(30, 11, 0, 0)});
    CHECK_FALSE(make_view(now, &before, {}).publications[0].messages.has_value());
    now = state(99, 90, {});
    CHECK_FALSE(make_view(now, &before, {}).publications[0].messages.has_value());
    now = state(102, 90, {});
    now.bus[0] = 8;
    view = make_view(now, &before, {});
    CHECK_FALSE(view.has_rates);
    CHECK_FALSE(view.publications[0].messages.has_value());
    CHECK_FALSE(make_view(now, nullptr, {}).clients[0].sleeps.has_value());
}

TEST_CASE("lag: the most in bytes, the sum in messages, unknown as soon as one is") {
    const auto lossy = static_cast<u8>(protocol::ReaderMode::lossy);
    State now = state(1, 50, {attachment(30, 0, 0, 512), attachment(31, 0, 0, 4096, 0, lossy)});
    View view = make_view(now, nullptr, {});
    CHECK(view.subscriptions[0].lag_bytes == 4096);
    CHECK(view.subscriptions[0].lag_messages == 32 + 256);
    CHECK(view.subscriptions[0].demoted);
    CHECK(view.publications[0].use == 0.5);
    CHECK_FALSE(view.publications[1].use.has_value());  // no reliable reader

    now = state(
        1, 50,
        {attachment(30, 0, 0, 512),
         attachment(31, 0, 0, 0, protocol::kAttachmentDisbelief | protocol::kAttachmentUncounted)});
    view = make_view(now, nullptr, {});
    CHECK_FALSE(view.subscriptions[0].lag_bytes.has_value());
    CHECK_FALSE(view.subscriptions[0].lag_messages.has_value());
    CHECK_FALSE(view.publications[1].use.has_value());
    // More than the ring holds is a full ring.
    now = state(1, 50, {attachment(30, 0, 0, ~u64{0})});
    CHECK(make_view(now, nullptr, {}).publications[0].use == 1.0);
}

TEST_CASE("a subscription holds, lags or sleeps by its attachments") {
    const u8 parked = protocol::kAttachmentParked;
    State now = state(1, 1, {attachment(30, 0, 0, 0, parked), attachment(31, 0, 0, 0, parked)});
    CHECK(make_view(now, nullptr, {}).subscriptions[0].asleep);
    now = state(
        1, 1,
        {attachment(30, 0, 0, 0, parked),
         attachment(31, 0, 0, 0, protocol::kAttachmentHolds | protocol::kAttachmentOvertaken)});
    const View view = make_view(now, nullptr, {});
    CHECK_FALSE(view.subscriptions[0].asleep);
    CHECK(view.subscriptions[0].holds);
    CHECK(view.subscriptions[0].overtaken);
}

TEST_CASE("what is not shown to us is not there, and does no harm") {
    State now = state(1, 1, {attachment(30, 5, 0, 16)});
    now.attachments[0].entry.publication = 999;
    now.attachments[0].entry.subscription = 999;
    now.attachments[0].entry.reader = 999;
    now.publications[0].entry.client = 999;
    const View view = make_view(now, nullptr, {});
    CHECK(view.attachments[0].publication == nullptr);
    CHECK(view.attachments[0].subscription == nullptr);
    CHECK(view.attachments[0].reader == nullptr);
    CHECK(view.attachments[0].writer == &view.clients[0]);
    CHECK(view.publications[0].publisher == nullptr);
    CHECK(view.subscriptions[0].received == 0);
}

TEST_CASE("only what has to do with some topics") {
    State now = state(1, 1, {attachment(30, 5, 0, 16), attachment(31, 5, 0, 16)});
    keep_matching({}, now);
    CHECK(now.clients.size() == 3);
    keep_matching({"a/+", "a"}, now);
    CHECK(now.publications.size() == 1);
    CHECK(now.publications[0].entry.topic == "a/1");
    CHECK(now.attachments.size() == 1);
    CHECK(now.subscriptions.size() == 1);
    CHECK(now.clients.size() == 2);
    keep_matching({"zzz"}, now);
    CHECK(now.publications.empty());
    CHECK(now.subscriptions.size() == 1);  // '#' has a topic in common with it
    CHECK(now.clients.size() == 1);
}

TEST_CASE("order: by topic, or largest first and unknown ones last") {
    const State before = state(1, 0, {});
    State now = state(2, 10, {});
    now.publications[1].entry.messages = 20;
    const View view = make_view(now, &before, {});
    CHECK(sorted_publications(view, Sort::topic)[0]->entry->topic == "a/1");
    CHECK(sorted_publications(view, Sort::rate)[0]->entry->topic == "b");
    CHECK(sorted_publications(view, Sort::lag)[0]->entry->topic == "a/1");
    now.publications[0].entry.flags = protocol::kPublicationDisbelief;
    now.publications[1].entry.messages = 0;
    CHECK(sorted_publications(make_view(now, &before, {}), Sort::rate)[0]->entry->topic == "b");
}

TEST_CASE("commands are looked up where the daemon's processes are ours, and nowhere else") {
    State now = state(1, 1, {});
    now.clients[0].entry.pid = static_cast<u32>(::getpid());
    Commands commands;
    commands.learn(now);
    CHECK_FALSE(commands.name(1).empty());
    CHECK(commands.name(1) == commands.name(3));
    CHECK(commands.name(2).empty());  // the daemon cannot see it
    CHECK(commands.name(99).empty());
    // In another PID namespace our own number is another one there.
    now.clients[2].entry.pid++;
    commands.learn(now);
    CHECK(commands.name(1).empty());
}

TEST_SUITE_END();
