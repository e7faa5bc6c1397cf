// SPDX-License-Identifier: Apache-2.0
// Subscriber: one subscription of this client. Reads the rings it is attached to in turn, keeps
// count of what it lost, lends and copies. Used by one thread at a time; ATTACHED and ENDED are
// stored by whichever thread reads the socket.
#pragma once

#include "bus.hpp"
#include "wait_loop.hpp"

#include <ipcbus/ipcbus.h>

namespace ipcbus::client {

class Subscriber;

/// What tells that two rings are of one publication. The uid is the kernel's word: nobody can pass
/// for a publication of another uid by repeating its lineage.
struct Lineage {
    u32 uid = 0;
    protocol::Id128 id{};
    auto operator<=>(const Lineage&) const = default;
};

/// An attachment with what keeps its memory alive. Owned by its subscriber.
struct Attached : protocol::Attachment {
    Attached(const protocol::Attached& told, sys::RingMapping&& mapped,
             std::shared_ptr<Link> on_link, std::shared_ptr<PeerPages> pages);

    u64 id;
    u64 publication;
    Lineage lineage;
    u64 passed_over = 0;  ///< by a `latest` reader, before the message it reads next
    u64 lost_before_start = 0;  ///< messages between the last ring of this lineage and this one
    u32 resyncs_in_vain = 0;
    bool filter;                ///< each record names its topic
    bool lossy;
    bool latest;
    bool ended = false;  ///< the publisher is gone: what is there is all there will be
    i64 orphaned_ns = 0;  ///< since when it is from a daemon that is no more; 0: it is not
    std::string topic;
    sys::RingMapping ring;
    std::shared_ptr<Link> link;
    std::shared_ptr<PeerPages> writer;
};

class Set;

struct SubscriberOptions {
    protocol::ReaderMode mode = protocol::ReaderMode::reliable;
    i64 spin_ns = 0;
};

class Subscriber final : public FrameSink, private protocol::Elsewhere {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Subscriber>>
    create(Bus& bus, const std::string& filter, const SubscriberOptions& options);
    ~Subscriber();
    Subscriber(const Subscriber&) = delete;
    Subscriber& operator=(const Subscriber&) = delete;

    // All return 0 (a count) or -errno; the text is left in last_error (error_text.hpp).
    int receive(void* buffer, std::size_t bytes, i64 timeout_ns, ipcbus_message* ret_message);
    int borrow(i64 timeout_ns, ipcbus_message* ret_message);
    i64 borrow_many(i64 timeout_ns, ipcbus_message* ret_messages, std::size_t count);
    int release();

    [[nodiscard]] u64 lost() const { return lost_; }
    [[nodiscard]] u32 publication_count();
    [[nodiscard]] Bus& bus() const { return bus_; }
    /// Whether the calling thread is the one that last used this handle.
    [[nodiscard]] bool used_by_this_thread() const;

    void frame(Link& link, const protocol::FrameHeader& header,
               std::span<const std::byte> fields) override;
    void wake() override;

private:
    friend class Set;

    Subscriber(Bus& bus, std::string filter, const SubscriberOptions& options);

    /// Stored under the control lock by any thread, applied by ours.
    struct Delivery {
        protocol::Attached attached;
        sys::RingMapping ring;
        sys::Error error;  ///< why there is no ring
        u64 ended = 0;
        protocol::u8 reason = 0;
    };

    // protocol::Elsewhere
    bool look() override;

    /// What a look over the rings found.
    struct Found {
        Attached* attached = nullptr;
        protocol::Record record;
    };
    int find(Found& ret_found, ipcbus_message* ret_message);
    int look_at(Attached& attached, Found& ret_found, ipcbus_message* ret_message);
    int lapped(Attached& attached, ipcbus_message* ret_message);
    int report_loss(Attached& attached, u64 lost, const char* why, ipcbus_message* ret_message);
    int tell_untold(ipcbus_message* ret_message);
    bool accepts(const Attached& attached, const protocol::Record& record);
    int corrupt(Attached& attached);
    int nothing() const;
    int try_receive(void* buffer, std::size_t bytes, ipcbus_message* ret_message);
    i64 try_borrow(ipcbus_message* ret_messages, std::size_t count);
    void describe(const Attached& attached, const protocol::Record& record,
                  ipcbus_message* ret_message);
    bool ready();

    /// What the control side has for us: frames, a lost connection, another daemon.
    void attend() {
        // relaxed: hints; hear_control looks again with order.
        if (link_->frames().load(std::memory_order_relaxed) != frames_seen_ ||
            news_.load(std::memory_order_relaxed)) {
            hear_control();
        }
    }
    void hear_control();
    void take_inbox();
    void attach(Delivery& delivery);
    void end(u64 attachment, protocol::EndReason reason);
    void admit(std::unique_ptr<Attached> attached);
    void let_go(Attached& attached);
    void drop_orphans(i64 now_ns);
    void look_at_connection();
    /// The waiter that this thread sleeps on: its own, or its set's.
    [[nodiscard]] protocol::Waiter& waiter() const { return *source_.waiter(); }
    /// Where the control side rings when it has stored something. Under the control lock.
    void ring_at(Link& link, u32 waiter);
    sys::Result<void> move_to(const std::shared_ptr<Link>& link);
    sys::Result<void> subscribe();
    void resubscribe();
    int begin_use();
    void note_thread();

    Bus& bus_;
    const std::string filter_;
    SubscriberOptions options_;
    SpinBudget spin_;
    u64 generation_ = 0;
    std::shared_ptr<Link> link_;
    u64 subscription_ = 0;
    u64 frames_seen_ = 0;

    // Its own waiter; while it is in a set, the set's.
    u32 waiter_number_ = 0;
    std::unique_ptr<protocol::Waiter> waiter_;
    protocol::Source source_;
    Set* set_ = nullptr;
    std::atomic<u32>* bell_ = nullptr;
    const std::atomic<u32>* asleep_ = nullptr;

    std::vector<std::unique_ptr<Attached>> attachments_;
    /// Successors that wait until the ring before them is drained.
    std::vector<std::unique_ptr<Attached>> held_;
    /// Sequence expected next of publications whose ring has ended here.
    std::map<Lineage, u64> expected_;

    std::vector<Delivery> inbox_;
    std::atomic<bool> news_{false};
    std::atomic<int> thread_{0};  ///< that last used this handle
    u32 looks_ = 0;
    u32 empty_looks_ = 0;

    u64 lost_ = 0;
    /// What a look has found out and the next receive tells: a loss, an attachment that could not
    /// be made. result 0: nothing.
    struct Untold {
        int result = 0;
        std::string text;
        ipcbus_message message{};
    };
    Untold untold_;
    Attached* loan_ = nullptr;
    protocol::Record loan_first_;
    protocol::Record loan_last_;
    u64 loan_count_ = 0;
    i64 last_look_ns_ = 0;
    char topic_[protocol::kTopicBytesMax + 1] = {};
};

}  // namespace ipcbus::client
