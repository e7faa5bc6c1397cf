// SPDX-License-Identifier: Apache-2.0
// Goal: a thousand remote subscribers of one topic, one of which reads nothing: the others get
// every message, the one is told what it missed, and the daemon's memory stays within what it
// charges for each.
// Method: a connection each, frame by frame, all read by one thread; a local publisher that waits
// for room; the daemon's figures in /proc.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "remote_client.hpp"

#include "protocol/layout.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

constexpr std::size_t kCrowd = kSanitized ? 200 : 1000;
constexpr u64 kMessages = kSanitized ? 450 : 600;
constexpr std::size_t kMessageBytes = 1000;
/// What a client of the library gives at first: for one that does not read it is all.
constexpr u64 kWindow = protocol::kStreamWindowBytes;
constexpr std::size_t kKiB = 1024;
/// What the daemon charges for a remote client while messages flow to all of them (kRemoteCost of
/// remote_session.cpp); and what one that is silent may take.
constexpr std::size_t kBusyMax = 192 * kKiB;
constexpr std::size_t kSilentMax = 48 * kKiB;

/// Of memory, its own and what it shares.
std::size_t resident_bytes(pid_t pid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) == 0) {
            return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10) * kKiB;
        }
    }
    FAIL("no VmRSS");
    return 0;
}

std::string text_of(u64 number) {
    std::string text = std::to_string(number);
    text.resize(kMessageBytes, '.');
    return text;
}

/// A remote subscriber, and the messages it has had.
struct Member {
    explicit Member(const std::string& address, int receive_bytes = 0)
        : client(address, receive_bytes) {
        REQUIRE(client.ask(protocol::Subscribe{"crowd", 0}).header.type ==
                protocol::FrameType::subscribed);
        attachment = client.expect<protocol::Attached>().attachment;
    }
    void allow(u64 bytes) { client.send(protocol::Credit{attachment, bytes}, 0); }
    /// Takes what is there.
    void read() {
        while (const std::optional<Incoming> incoming = client.next_if_there()) {
            take(*incoming);
        }
    }
    void take(const Incoming& incoming) {
        if (incoming.header.type != protocol::FrameType::data) {
            return;
        }
        protocol::DataHead head;
        std::span<const std::byte> bytes;
        REQUIRE(protocol::decode_data(incoming.fields, head, bytes));
        if (head.offset == 0) {
            stream.clear();  // what was begun is given up
        }
        stream.insert(stream.end(), bytes.begin(), bytes.end());
        std::size_t at = 0;
        while (stream.size() - at >= protocol::kRecordHeaderBytes) {
            u64 words[2];
            std::memcpy(words, stream.data() + at, sizeof words);
            const std::size_t payload = protocol::word_payload_bytes(words[0]);
            const std::size_t total = protocol::record_bytes(protocol::word_topic_bytes(words[0]),
                                                             static_cast<protocol::u32>(payload));
            if (stream.size() - at < total) {
                break;
            }
            REQUIRE(words[1] > last);
            lost += words[1] - last - 1;
            last = words[1];
            const std::string wanted = text_of(last);
            REQUIRE(payload == wanted.size());
            REQUIRE(std::memcmp(stream.data() + at + protocol::kRecordHeaderBytes, wanted.data(),
                                payload) == 0);
            at += total;
        }
        stream.erase(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(at));
    }

    RemoteClient client;
    u64 attachment = 0;
    std::vector<std::byte> stream;
    u64 last = 0;  ///< sequence
    u64 lost = 0;
};

using Members = std::vector<std::unique_ptr<Member>>;

/// All of them to the last message; `look` now and then. False: nothing came for too long.
template <class Look>
bool read_all(const Members& members, Look look) {
    std::vector<pollfd> waits;
    for (const auto& member : members) {
        waits.push_back({member->client.socket().get(), POLLIN, 0});
    }
    for (std::size_t left = members.size(); left != 0;) {
        if (::poll(waits.data(), waits.size(), kTimeoutMs) <= 0) {
            return false;
        }
        look();
        for (std::size_t i = 0; i < members.size(); i++) {
            if (waits[i].revents == 0) {
                continue;
            }
            members[i]->read();
            if (members[i]->last == kMessages) {
                waits[i].fd = -1;
                left--;
            }
        }
    }
    return true;
}

void allow_descriptors(rlim_t count) {
    rlimit limit{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    REQUIRE(limit.rlim_max >= count);
    limit.rlim_cur = limit.rlim_max;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

}  // namespace

TEST_CASE("a crowd of remote subscribers, one of which reads nothing: the others get everything") {
    allow_descriptors(15'000);
    DaemonFixture daemon(
        "[tcp]\nclients = 2000\nconnects_per_second = 100000\n"
        "[publications]\nstall_timeout = \"2s\"\n"
        "[limits.per_uid]\nclients = 2000\n");
    const pid_t pid = daemon.process().pid();
    const Bus here = connect(daemon.local_address());
    const Publisher publisher = advertise(here, "crowd", 65536, -1);
    Members members;
    members.push_back(std::make_unique<Member>(daemon.tcp_address()));  // what the first one needs
    const std::size_t alone_bytes = resident_bytes(pid);
    const std::size_t alone_descriptors = daemon.process().descriptor_count();
    while (members.size() < kCrowd - 1) {
        members.push_back(std::make_unique<Member>(daemon.tcp_address()));
    }
    auto deaf = std::make_unique<Member>(daemon.tcp_address(), 4096);
    const std::size_t silent_bytes = resident_bytes(pid) - alone_bytes;

    deaf->allow(kWindow);
    for (const auto& member : members) {
        member->allow(u64{1} << 40);
    }
    std::thread publishing([&] {
        for (u64 number = 1; number <= kMessages; number++) {
            const std::string text = text_of(number);
            must(ipcbus_publish(publisher.get(), text.data(), text.size()), "publish");
        }
    });
    std::size_t most_bytes = 0;
    unsigned looks = 0;
    const bool came = read_all(members, [&] {
        if (looks++ % 16 == 0) {
            most_bytes = std::max(most_bytes, resident_bytes(pid));
        }
    });
    publishing.join();
    REQUIRE(came);
    for (const auto& member : members) {
        CHECK(member->lost == 0);
    }
    // It gets what was let out for it, is told of the rest, and goes on.
    deaf->allow(u64{1} << 40);
    Members last;
    last.push_back(std::move(deaf));
    REQUIRE(read_all(last, [] {}));
    CHECK(last.front()->lost > kMessages - (kWindow + 2 * 65536) / kMessageBytes);

    const std::size_t busy_bytes = std::max(most_bytes, alone_bytes) - alone_bytes;
    MESSAGE("daemon, for each remote subscriber: ", silent_bytes / kCrowd / kKiB, " KiB silent, ",
            busy_bytes / kCrowd / kKiB, " KiB busy");
    if (!kSanitized) {
        CHECK(silent_bytes < kCrowd * kSilentMax);
        CHECK(busy_bytes < kCrowd * kBusyMax);
    }
    // And nothing of them stays.
    last.clear();
    members.resize(1);
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (daemon.process().descriptor_count() > alone_descriptors && !deadline.passed()) {
        publish(publisher, "over");  // until its publisher has seen them go, their pages stay
        (void)::poll(nullptr, 0, 10);
    }
    CHECK(daemon.process().descriptor_count() <= alone_descriptors);
}
