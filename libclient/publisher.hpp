// SPDX-License-Identifier: Apache-2.0
// Publisher: one publication of this client. Ties the ring (protocol/ring_publisher.hpp) to the
// daemon: gets the ring, takes membership in, complains, moves to a new ring under a new daemon.
// Used by one thread at a time; frames for it are stored by whichever thread reads the socket.
#pragma once

#include "bus.hpp"
#include "protocol/ring_publisher.hpp"

#include <ipcbus/ipcbus.h>

namespace ipcbus::client {

struct PublisherOptions {
    u64 ring_bytes = 0;
    u64 message_bytes_max = 0;
    i64 max_block_ns = -1;
};

class Publisher final : public FrameSink, private protocol::Control {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Publisher>>
    create(Bus& bus, const std::string& topic, const PublisherOptions& options);
    ~Publisher();
    Publisher(const Publisher&) = delete;
    Publisher& operator=(const Publisher&) = delete;

    // All return 0 or -errno; the text of an error is left in last_error (error_text.hpp).
    int publish(std::string_view topic, const void* data, std::size_t bytes);
    i64 publish_many(const ipcbus_buffer* messages, std::size_t count);
    int claim(std::string_view topic, std::size_t bytes, void** ret_data);
    int commit(std::size_t bytes);
    int abort();

    void set_max_block(i64 ns) { options_.max_block_ns = ns; }
    [[nodiscard]] u32 subscriber_count() const;
    int wait_subscribers(u32 count, i64 timeout_ns);
    [[nodiscard]] std::size_t message_bytes_max() const;
    [[nodiscard]] u64 ring_bytes() const { return ring_->writer().capacity(); }
    [[nodiscard]] Bus& bus() const { return bus_; }

    void frame(Link& link, const protocol::FrameHeader& header,
               std::span<const std::byte> fields) override;
    void wake() override;

private:
    Publisher(Bus& bus, std::string topic, const PublisherOptions& options);

    /// What belongs to one ring; replaced as a whole when the publication moves to another.
    struct Home {
        std::shared_ptr<Link> link;
        u32 waiter = 0;
        u64 publication = 0;
        u32 index = 0;
        sys::RingMapping memory;
    };
    class Tentative;

    // protocol::Control
    Heard take_in(u64 number) override;
    Heard look() override;
    void complain(const protocol::ReaderTable::Fault& fault) override;
    bool is_own(u64 attachment) override;

    [[nodiscard]] bool plain() const;
    bool publish_plainly(protocol::RingPublisher& ring, const void* data, std::size_t bytes) const;
    int prepare(std::string_view topic, std::size_t bytes, u16* ret_topic_bytes);
    int too_large(std::size_t bytes) const;
    int refused(protocol::RingPublisher::Status status) const;
    void finish();
    [[gnu::noinline]] int finished_slowly();
    [[gnu::noinline]] int publish_slowly(std::string_view topic, const void* data,
                                         std::size_t bytes);
    void write(u16 topic_bytes, const void* data, std::size_t bytes);
    void look_at_daemon();
    void move(i64 now_ns);
    sys::FutexWait wait_for_members(u32 count, i64 timeout_ns);
    [[nodiscard]] sys::Result<protocol::Advertise> request() const;
    sys::Result<void> advertise();
    sys::Result<protocol::Advertised> obtain(const protocol::Advertise& request, Home& home);
    void add_reader(const protocol::Member& member, const sys::Ref<PeerPages>& pages);
    void remove_reader(u64 attachment);
    std::unique_ptr<protocol::RingPublisher> make_ring(const protocol::Advertised& granted,
                                                       const Home& home);

    Bus& bus_;
    const std::string topic_;
    const bool filter_;
    PublisherOptions options_;
    protocol::Id128 lineage_{};
    u64 generation_ = 0;
    Home home_;
    std::unique_ptr<protocol::RingPublisher> ring_;
    /// The peers whose pages entries of the ReaderTable point into, each once.
    std::vector<sys::Ref<PeerPages>> peers_;

    /// Stored under the control lock by any thread, applied by ours.
    struct Delivery {
        protocol::Members members;
        std::vector<sys::Ref<PeerPages>> peers;  ///< of members.attach, in order
    };
    std::vector<Delivery> inbox_;

    bool claimed_ = false;
    u64 claimed_bytes_ = 0;
    u16 claimed_topic_bytes_ = 0;
    u32 publishes_until_look_ = 0;
    /// Messages of fewer bytes may take the short way through publish(); 0: none may. Settled at
    /// each look at the daemon, which a new ring makes due.
    std::size_t plain_bytes_ = 0;
    i64 last_look_ns_ = 0;
    u64 moving_to_ = 0;   ///< the generation of the daemon to which the publication is to move
    i64 move_at_ns_ = 0;  ///< and when
};

}  // namespace ipcbus::client
