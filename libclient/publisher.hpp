// SPDX-License-Identifier: Apache-2.0
// Publisher: one publication of this client. Ties the ring (protocol/ring_publisher.hpp) to the
// daemon: gets the ring, takes membership in, complains, moves to a new ring under a new daemon.
// Used by one thread at a time; frames for it are stored by whichever thread reads the socket.
#pragma once

#include "bus.hpp"
#include "protocol/exchange.hpp"
#include "protocol/ring_publisher.hpp"

#include <ipcbus/ipcbus.h>

#include <optional>

namespace ipcbus::client {

struct PublisherOptions {
    u64 ring_bytes = 0;
    u64 message_bytes_max = 0;
    i64 max_block_ns = -1;
};

/// Who wants to know which attachments read a publication. Called by the publication's thread,
/// under the control lock.
class Audience {
public:
    /// `own`: its reader may be this very client. Told again, if memory ran out meanwhile.
    virtual void joined(const std::shared_ptr<Link>& link, u64 attachment, bool own) = 0;
    virtual void left(u64 attachment) = 0;
    /// It has not read in time what was to it, and may never do so, of the records that stand from
    /// `from` to below `to`. (Not always under the control lock.)
    virtual void overtaken(u64 attachment, u64 from, u64 to) = 0;
    /// It cannot answer some of what it was asked.
    virtual void refused(const protocol::Refused& told) = 0;
    /// The publication is in a new ring, which nobody has joined yet.
    virtual void moved() = 0;

protected:
    ~Audience() = default;
};

/// What a publication of requests needs beside its options (protocol/exchange.hpp).
struct RequestsOptions {
    protocol::Id128 lineage{};
    u64 reply_ring_bytes = 0;
    Audience* audience = nullptr;    ///< outlives it
    FrameSink* replies = nullptr;    ///< woken when membership changes; outlives it
};

/// The same of replies.
struct RepliesOptions {
    std::shared_ptr<Link> link;
    u64 attachment = 0;  ///< whose requests are answered
    u32 waiter = 0;      ///< of the responder, which may share it among its publications
    u64 sequence = 0;    ///< of the request that is answered first
};

class Publisher final : public FrameSink, private protocol::Control {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Publisher>>
    create(Bus& bus, const std::string& topic, const PublisherOptions& options);
    [[nodiscard]] static sys::Result<std::unique_ptr<Publisher>>
    create_requests(Bus& bus, const std::string& topic, const PublisherOptions& options,
                    const RequestsOptions& requests);
    [[nodiscard]] static sys::Result<std::unique_ptr<Publisher>>
    create_replies(Bus& bus, const std::string& topic, const RepliesOptions& replies);
    ~Publisher();
    Publisher(const Publisher&) = delete;
    Publisher& operator=(const Publisher&) = delete;

    // All return 0 or -errno; the text of an error is left in last_error (error_text.hpp).
    int publish(std::string_view topic, const void* data, std::size_t bytes);
    i64 publish_many(const ipcbus_buffer* messages, std::size_t count);
    int claim(std::string_view topic, std::size_t bytes, void** ret_data);
    int commit(std::size_t bytes);
    int abort();

    // Of requests and replies.
    /// Everything that a publish might find out of the daemon, found out now: until the next
    /// publish the audience stays the same.
    int settle();
    /// Membership as far as it has been heard, without waiting; and another daemon, if it is time.
    /// True: the publication is to move to another daemon soon.
    bool attend();
    /// Publishes `head` and a payload. Its sequence is the one that was next_sequence().
    int publish_headed(const protocol::Head& head, const void* data, std::size_t bytes);
    [[nodiscard]] u64 next_sequence() const { return ring_->writer().sequence(); }
    /// Where it will stand, unless the publication moves to another ring.
    [[nodiscard]] u64 next_position() const { return ring_->writer().position(); }
    /// Whether the calling thread is the one that reads that attachment.
    bool is_own(u64 attachment) override;
    int too_large(std::size_t bytes) const;
    [[nodiscard]] bool has_room(std::size_t bytes) const {
        return ring_->writer().has_room(protocol::record_bytes(protocol::kHeadBytes, bytes));
    }

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
    void overtaken(u64 attachment, u64 from, u64 to) override;

    int leave_ring();
    int heed_rules();
    [[nodiscard]] bool headed() const { return requests_.has_value() || replies_.has_value(); }
    [[nodiscard]] bool plain() const;
    bool publish_plainly(protocol::RingPublisher& ring, const void* data, std::size_t bytes) const;
    int prepare(std::string_view topic, std::size_t bytes, u16* ret_topic_bytes);
    int reserve(std::size_t topic_bytes, std::size_t bytes);
    int look_if_due();
    int publish_headed_slowly(const protocol::Head& head, const void* data, std::size_t bytes);
    static void write_headed(protocol::RingPublisher& ring, const protocol::Head& head,
                             const void* data, std::size_t bytes);
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
    sys::Result<protocol::Advertised> ask_for_ring(const protocol::Advertise& request, Home& home);
    template <class Request>
    sys::Result<protocol::Advertised> obtain(const Request& request, Home& home);
    void take_in_inbox();
    bool give_back_waiter() const { return !replies_.has_value(); }
    void add_reader(const protocol::Member& member, const sys::Ref<PeerPages>& pages);
    void remove_reader(u64 attachment);
    std::unique_ptr<protocol::RingPublisher> make_ring(const protocol::Advertised& granted,
                                                       const Home& home);

    Bus& bus_;
    const std::string topic_;
    const bool filter_;
    PublisherOptions options_;
    std::optional<RequestsOptions> requests_;
    std::optional<RepliesOptions> replies_;
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
        protocol::Refused refused;               ///< instead, if it has a code
        protocol::Overtaken overtaken;           ///< or this, if it has a publication
        protocol::Move move;                     ///< the same
        protocol::Revoked revoked;               ///< the same
    };
    std::vector<Delivery> inbox_;
    std::atomic<bool> failures_{false};  ///< there are some of the latter in it
    bool leaving_ = false;               ///< the next message is not for this ring: MOVE
    std::string revoked_;                ///< why it may not publish any more; empty: it may

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
