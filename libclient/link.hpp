// SPDX-License-Identifier: Apache-2.0
// Link: one connection to one running daemon, and the memory that came with it: the client's own
// pages and those of the peers it is attached to. Made by Bus, which guards everything here with
// its control lock; only the words in the pages are touched without it, by the handles that own
// them. When the daemon goes, the Link stays for as long as a handle has attachments from it: rings
// go on without a daemon.
#pragma once

#include "bridge.hpp"
#include "protocol/frame_reader.hpp"
#include "rings.hpp"
#include "sys/clock.hpp"
#include "sys/fork_closed_fd.hpp"
#include "sys/mapping.hpp"

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace ipcbus::client {

/// The daemon's refusal as an Error; a code that is none is a breach of the protocol.
[[nodiscard]] sys::Error refusal(const protocol::ErrorFrame& frame);

class Link : public std::enable_shared_from_this<Link> {
public:
    /// Connects and says HELLO; on success the own pages are mapped and MAPPED is said.
    /// `deadline` is for all of it.
    [[nodiscard]] static sys::Result<std::shared_ptr<Link>> open(const std::string& path,
                                                                 const std::string& name,
                                                                 const sys::Deadline& connect,
                                                                 i64 answer_timeout_ns);

    /// The same over a bridge to another host's daemon, which is ready.
    [[nodiscard]] static sys::Result<std::shared_ptr<Link>> open(std::shared_ptr<Bridge> bridge,
                                                                 const std::string& name,
                                                                 i64 answer_timeout_ns);

    ~Link();
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

    [[nodiscard]] const protocol::Welcome& welcome() const { return welcome_; }
    [[nodiscard]] int socket() const { return socket_.get(); }

    // The own pages. Numbers within the geometry.
    [[nodiscard]] protocol::DoorbellWaiter& waiter(u32 number) const;
    [[nodiscard]] std::atomic<u32>& asleep(u32 number) const;
    [[nodiscard]] protocol::CursorSlot& slot(u32 number) const;
    [[nodiscard]] protocol::DoorbellPublication& publication(u32 index) const;
    [[nodiscard]] protocol::MailboxPublication& mailbox(u32 index) const;
    [[nodiscard]] Rings& rings() { return rings_; }
    /// Frames that the daemon has sent; a change means: read the socket.
    [[nodiscard]] const std::atomic<u64>& frames() const;

    /// A waiter number of our own choice, for a subscription, a set or a publisher. EMFILE: none
    /// left, raise limits.waiters_per_client.
    [[nodiscard]] sys::Result<u32> take_waiter();
    void give_waiter(u32 number);
    /// One that was taken and that goes back, if it is not kept: also when memory runs out before
    /// it is of use. Under the control lock.
    class TakenWaiter {
    public:
        TakenWaiter(Link& link, u32 number) : link_(link), number_(number) {}
        ~TakenWaiter() {
            if (!kept_) {
                link_.give_waiter(number_);
            }
        }
        TakenWaiter(const TakenWaiter&) = delete;
        TakenWaiter& operator=(const TakenWaiter&) = delete;
        void keep() { kept_ = true; }

    private:
        Link& link_;
        u32 number_;
        bool kept_ = false;
    };

    // Control. Under the control lock.
    /// Reads what is there, without waiting. False: the daemon has hung up (or broke the protocol;
    /// why() tells).
    bool read_available();
    /// The next whole frame that was read, with its descriptors taken by the caller.
    protocol::FrameReader::Status next(protocol::FrameHeader& ret_header,
                                       std::span<const std::byte>& ret_fields);
    [[nodiscard]] sys::UniqueFd take_fd();
    void give_up(int code, std::string why);
    [[nodiscard]] bool hung_up() const { return hung_up_; }
    /// Why; code 0 is a plain hang-up.
    [[nodiscard]] const sys::Error& why() const { return why_; }

    /// Sends a frame; waits while the socket is full. A failure is a hang-up.
    template <class Frame>
    void send(const Frame& frame, u64 request) {
        out_.clear();
        protocol::encode(out_, frame, request);
        send_bytes();
    }
    /// A number that no request of this process has had: answers cannot be mixed up, not even with
    /// those of an earlier link.
    [[nodiscard]] static u64 next_request();
    /// Says RECEIVED for the descriptors taken since the last time.
    void acknowledge_fds();

    /// The daemon is another host's: a bridge reads and writes the other ends of all rings.
    [[nodiscard]] bool bridged() const { return bridge_ != nullptr; }
    [[nodiscard]] sys::Ref<PeerPages> peer(u64 client) const;
    void add_peer(const protocol::Peer& frame);
    void drop_peer(u64 client);

private:
    Link();
    sys::Result<void> greet(const std::string& name, i64 answer_timeout_ns);
    sys::Result<void> map_pages();
    void send_bytes();

    std::shared_ptr<Bridge> bridge_;  ///< null: the daemon is this host's
    sys::ForkClosedFd socket_;
    protocol::FrameReader frame_reader_;
    std::deque<sys::UniqueFd> fds_;
    std::vector<std::byte> out_;
    u32 fds_taken_ = 0;
    bool hung_up_ = false;
    sys::Error why_;

    protocol::Welcome welcome_;
    sys::Mapping cursor_;
    sys::Mapping doorbell_;
    sys::Mapping mailbox_;
    std::vector<bool> waiters_;
    u32 first_free_ = 0;  ///< no waiter below it is free
    std::vector<sys::Ref<PeerPages>> peers_;  ///< sorted by client
    Rings rings_;
};

}  // namespace ipcbus::client
