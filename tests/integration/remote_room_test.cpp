// SPDX-License-Identifier: Apache-2.0
// Goal: what a remote publisher has sent, and finds no room for, is in the ring as soon as there is
// room, however often its readers have rung in vain before.
// Method: a raw TCP client that publishes; a raw local reader with a ring of 64 KiB, who moves its
// cursor and rings as it likes. The stall timeout is so long that no clock is a remedy.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"
#include "remote_client.hpp"

#include "client_pages.hpp"
#include "protocol/attachment.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <poll.h>

#include <cstring>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u32;
using protocol::u64;

namespace {

constexpr u64 kRing = 65536;
constexpr u32 kPayload = 1008;
constexpr u64 kRecord = 1024;
constexpr const char* kNoClock = "[publications]\nstall_timeout = \"1h\"\n";

/// Another process changes a word, without ringing: nothing can be waited for.
template <class Condition>
void wait_until(const char* what, Condition&& condition) {
    const std::int64_t until_ns = sys::monotonic_ns() + std::int64_t{kTimeoutMs} * 1'000'000;
    while (!condition()) {
        INFO(what);
        REQUIRE(sys::monotonic_ns() < until_ns);
        (void)::poll(nullptr, 0, 0);
    }
}

class RawPublisher {
public:
    explicit RawPublisher(const std::string& address) : client_(address) {
        told_ = decoded<protocol::Advertised>(
            client_.ask(protocol::Advertise{"room", kRing, 0, 0, {1}, 1}));
    }
    void wait_for_reader() {
        while (readers_ != 1) {
            take_one();
        }
    }
    /// As far as the credit goes, for which it waits.
    void send(u64 messages) {
        for (u64 i = 0; i < messages; i++) {
            while (sent_ + kRecord > credit_) {
                take_one();
            }
            std::vector<std::byte> out;
            protocol::encode_data_head(out, {told_.publication, 0}, kRecord);
            const u64 header[2] = {protocol::record_word(kPayload, 0, 0), ++sequence_};
            const auto* const bytes = reinterpret_cast<const std::byte*>(header);
            out.insert(out.end(), bytes, bytes + sizeof header);
            out.resize(out.size() + kPayload);
            RemoteClient::say(client_.socket(),
                              {reinterpret_cast<const char*>(out.data()), out.size()});
            sent_ += kRecord;
        }
    }

private:
    void take_one() {
        const Incoming incoming = client_.next();
        if (incoming.header.type == protocol::FrameType::credit) {
            credit_ = decoded<protocol::Credit>(incoming).bytes;
        } else if (incoming.header.type == protocol::FrameType::readers) {
            readers_ = decoded<protocol::Readers>(incoming).count;
        }
    }

    RemoteClient client_;
    protocol::Advertised told_;
    u32 readers_ = 0;
    u64 sequence_ = 0;
    u64 sent_ = 0;
    u64 credit_ = 0;
};

class RawReader {
public:
    explicit RawReader(const std::string& socket_path) : client_(RawClient::on_bus(socket_path)) {
        (void)client_.subscribe("room");
        for (const Incoming& incoming : client_.drain()) {
            if (incoming.header.type == protocol::FrameType::attached) {
                const auto told = decoded<protocol::Attached>(incoming);
                auto ring = sys::map_ring(incoming.fds.at(0).get(), protocol::kRingDataOffset,
                                          told.ring_bytes, sys::Access::read_only);
                REQUIRE(ring.ok());
                ring_ = std::move(ring).value();
                slot_ = told.slot;
                cursor_ = told.start;
            } else if (incoming.header.type == protocol::FrameType::peer) {
                const auto peer = decoded<protocol::Peer>(incoming);
                auto doorbell = sys::map_shared(incoming.fds.back().get(), 0,
                                                protocol::doorbell_bytes(peer.geometry),
                                                sys::Access::read_write);
                REQUIRE(doorbell.ok());
                doorbell_ = std::move(doorbell).value();
            }
        }
        REQUIRE(ring_.header() != nullptr);
        REQUIRE(doorbell_.data() != nullptr);
    }
    [[nodiscard]] u64 newest() const { return header().newest.load(); }
    /// The relay has found the ring full, and asked for more room than there is.
    void wait_until_wanted() const {
        wait_until("the relay to ask for room", [&] {
            const u64 wanted = header().wanted.load();
            return wanted != 0 && protocol::distance(wanted, cursor_) > 0;
        });
    }
    /// Reads on until there is the room that was asked for, and rings.
    void make_room() {
        const u64 wanted = header().wanted.load();
        while (protocol::distance(wanted, cursor_) > 0) {
            cursor_ += kRecord;
        }
        reinterpret_cast<protocol::CursorSlot*>(client_.cursor.data() +
                                                protocol::slot_offset(slot_))
            ->cursor.store(cursor_);
        protocol::ring_bell(words().bell);
    }
    /// Rings, and makes the relay look at its summary, which shows that it has heard.
    void ring_in_vain() {
        words().summary.store(1);
        protocol::ring_bell(words().bell);
        wait_until("the relay to hear the bell", [&] { return words().summary.load() == 0; });
    }

private:
    [[nodiscard]] const protocol::RingHeader& header() const {
        return *reinterpret_cast<const protocol::RingHeader*>(ring_.header());
    }
    protocol::DoorbellWaiter& words() {
        return *reinterpret_cast<protocol::DoorbellWaiter*>(doorbell_.data() +
                                                            protocol::waiter_offset(0));
    }

    RawClient client_;
    sys::RingMapping ring_;
    sys::Mapping doorbell_;
    u32 slot_ = 0;
    u64 cursor_ = 0;
};

}  // namespace

TEST_CASE("a reader that makes room is heard, however often it rang in vain before") {
    const DaemonFixture daemon(kNoClock);
    RawPublisher publisher(daemon.tcp_address());
    RawReader reader(daemon.socket_path());
    publisher.wait_for_reader();
    publisher.send(kRing / kRecord);  // the last one does not fit
    // The relay naps after a number of rings in vain: the one that makes room is before the nap,
    // just at it, and behind it.
    for (int rings = 0; rings < 48; rings++) {
        INFO(rings, " rings in vain");
        reader.wait_until_wanted();
        for (int i = 0; i < rings; i++) {
            reader.ring_in_vain();
        }
        const u64 before = reader.newest();
        reader.make_room();
        wait_until("what has room to be in the ring", [&] { return reader.newest() != before; });
        publisher.send(1);
    }
}
