// SPDX-License-Identifier: Apache-2.0
// One remote client: its TCP connection, and the client of the bus that the daemon is on its
// behalf. Owned by the RemoteHub, the daemon's one thread.
//
//   remote client  <== TCP ==>  RemoteSession  <== socket pair ==>  Session  --  Bus
//                                     |  maps its own pages; those of others, and rings, are
//                                     '--> mapped once for all sessions (remote_memory.hpp)
//
// To the bus it is a client like any other: with pages, waiter, attachments and publications of its
// own, limits included. So whatever holds for a local client holds for a remote one without a line
// of the bus being about it: a slow one holds back a publisher, is demoted by it after
// stall_timeout or is lapped, alone; a dead one is a hang-up. What is here is a client that never
// waits: frames without descriptors pass through, those with them are taken here
// (remote_bus.cpp), and messages move between rings and DATA frames (protocol/stream.hpp;
// remote_traffic.cpp).
//
// A remote requester's ring is addressed as a local one's is (protocol/reader_table.hpp): who reads
// its requests it is told by RESPONDERS, ahead of anybody's reply, and what one may have lost of
// them by OVERTAKEN, as a part of its stream.
//
// BOUNDS. For a remote there are: one chunk of 64 KiB and a frame on its way out; of
// what the bus says, what one read brings (nothing is read from the bus while kQueueBytesMax wait
// to go out: what the bus has to tell is state there, and unread answers are limited there); of
// what the remote says, one unfinished frame, and a window for each of its publications.
// These are charged to its uid, as rings are. TLS (sys/tls_stream.hpp) stands between the socket's
// bytes and the frames, takes what it takes at most, and is charged, too.
//
//   awaiting_hello -> opening -> active -> draining -> closing -> gone
//      draining: the remote has hung up, and what it had sent still waits for room in a ring
//      closing:  what is in the queue goes out, an ERROR or STOPPING last
#pragma once

#include "client_pages.hpp"
#include "operations.hpp"
#include "protocol/frame_reader.hpp"
#include "protocol/stream.hpp"
#include "protocol/waiter.hpp"
#include "quota.hpp"
#include "remote_memory.hpp"
#include "sys/alarm.hpp"
#include "sys/tls_stream.hpp"

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>

namespace ipcbus::daemon {

class RemoteHub;

class RemoteSession final : private protocol::Control {
public:
    /// `tls`: null for plain text.
    RemoteSession(RemoteHub& hub, EventLoop& loop, sys::UniqueFd tcp, std::string name,
                  std::unique_ptr<sys::TlsStream> tls);
    ~RemoteSession();

    /// `identity`: its host; `charge`: of a connection that says nothing.
    void start(std::string identity, Charge charge);
    /// Ends it; what is on its way out may take a moment.
    void abandon();
    /// Ends it before it was greeted, for there are others.
    void give_way();
    /// Ends it if this is it: its client has come back on another connection.
    bool end_if_replaced(const protocol::Replaces& by);
    /// Ends it if its host has not answered for tcp.dead_peer_timeout.
    void look_whether_dead();
    [[nodiscard]] bool was_greeted() const { return greeted_; }
    /// "remote 192.0.2.7:4711"; with the subject of its certificate or its token's name, once that
    /// is known.
    [[nodiscard]] std::string describe() const;
    /// The subject of its certificate, its token's name, or its host.
    [[nodiscard]] const std::string& identity() const { return identity_; }
    /// What stands for it on the bus: whose limits it is charged to.
    [[nodiscard]] uid_t uid() const;

private:
    /// Of frames for the other side, how much waits before no more is read from this one.
    static constexpr std::size_t kQueueBytesMax = 64 * 1024;

    /// Requests of our own, whose answers the remote is not told.
    static constexpr protocol::u64 kOwnRequestBit = protocol::u64{1} << 63;

    enum class State { awaiting_hello, opening, active, draining, closing, gone };

    /// A publication of the remote's, and an attachment: remote_streams.hpp.
    struct Incoming;
    struct Outgoing;
    /// Of a subscription: CAUGHT_UP goes out behind what stood in its rings.
    struct Beginning {
        std::size_t awaited = 0;  ///< of outgoing_, those that have not come so far
        bool all_attached = false;
    };

    // remote_session.cpp
    void received(std::span<const std::byte> bytes);
    void received_plain(std::span<const std::byte> bytes);
    void received_sealed(std::span<const std::byte> bytes);
    void receive_ended(int error);
    void sent(int error);
    void told_bus(int error);
    void time_is_over();
    void fail(protocol::u64 request, int code, std::string text);
    void end_when_sent();
    void drain();
    void finish();
    [[nodiscard]] sys::Result<void> map_pages(const protocol::Geometry& geometry, int cursor,
                                              int doorbell, int mailbox);
    [[nodiscard]] sys::Result<void> watch_bell();
    [[nodiscard]] sys::Result<void> join_bus();
    template <class Frame>
    void say(const Frame& frame, protocol::u64 request = 0) {
        if (state_ != State::draining && state_ != State::gone) {
            protocol::encode(queue_, frame, request);
            later();
        }
    }
    template <class Frame>
    void tell_bus(const Frame& frame, protocol::u64 request) {
        protocol::encode(bus_queue_, frame, request);
        later();
    }
    void pass_on(const protocol::FrameHeader& header, std::span<const std::byte> fields);

    // remote_frames.cpp: what comes from the remote
    void take_remote_frames();
    void misunderstood(std::span<const std::byte> bytes, const std::string& why);
    void remote_frame(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void greeting(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void login(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void exchange(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void other_frame(const protocol::FrameHeader& header);
    void unsubscribe(const protocol::FrameHeader& header, protocol::u64 subscription);
    void data(std::span<const std::byte> fields);
    void leave(const protocol::FrameHeader& header, protocol::u64 publication);

    // remote_bus.cpp: and from the bus
    void bus_ready(int error);
    bool read_bus();
    void bus_frame(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void welcomed(const protocol::FrameHeader& header, protocol::Welcome frame);
    void advertised(const protocol::FrameHeader& header, const protocol::Advertised& frame);
    void attached(const protocol::Attached& frame);
    [[nodiscard]] sys::Result<void> attach(const protocol::Attached& frame, int ring);
    void peer(const protocol::Peer& frame);
    void members(const protocol::Members& frame);
    void end(protocol::u64 attachment, protocol::u8 reason);
    void all_attached(protocol::u64 subscription);
    void detached(protocol::u64 attachment);
    [[nodiscard]] sys::UniqueFd take_fd();
    template <class Frame>
    [[nodiscard]] bool decoded(const protocol::FrameHeader& header,
                               std::span<const std::byte> fields, Frame& ret_frame);

    // remote_traffic.cpp: messages
    void later();
    void turn();
    void rung();
    void listen();
    void digest(Incoming& incoming);
    void settle(Incoming& incoming, protocol::StreamReceiver::State state);
    void digest_waiting();
    void fruitful();
    [[nodiscard]] bool in_vain();
    void unadvertise(Incoming& incoming);
    void tell_readers(const Incoming& incoming);
    void tell_responders(const Incoming& incoming, const protocol::Members& members);
    void list(Outgoing& outgoing);
    void unlist(Outgoing& outgoing);
    bool fill(std::vector<std::byte>& out);
    void drained(Outgoing& outgoing, std::vector<std::byte>& out, protocol::EndReason reason);
    void caught_up(Outgoing& outgoing);
    void send_some();
    void seal(std::vector<std::byte>& chunk);
    bool lie_down();
    void get_up(bool swept);
    void set_timer();
    void wake_in(std::int64_t ns);

    // protocol::Control: nothing is waited for here, frames come when they come.
    Heard take_in(protocol::u64) override { return Heard::nothing; }
    Heard look() override { return Heard::nothing; }
    void complain(const protocol::ReaderTable::Fault& fault) override;
    void overtaken(protocol::u64 attachment, protocol::u64 from, protocol::u64 to) override;
    bool is_own(protocol::u64) override { return false; }

    RemoteHub& hub_;
    EventLoop& loop_;
    State state_ = State::awaiting_hello;
    std::string name_;
    std::string identity_;
    bool logged_in_ = false;
    bool certified_ = false;  ///< by a certificate, which says who it is
    bool greeted_ = false;
    protocol::Replaces self_;     ///< as its client may name it to replace it; since WELCOME
    protocol::Replaces earlier_;  ///< and one that this one replaces
    bool turn_deferred_ = false;
    bool remote_ended_ = false;
    bool bus_ended_ = false;
    bool stopping_ = false;  ///< the bus is; STOPPING is due when all has been sent
    bool lying_ = false;     ///< everything is parked
    bool polled_ = false;    ///< but for what nobody rings for
    sys::UniqueFd tcp_;
    std::unique_ptr<sys::TlsStream> tls_;
    sys::UniqueFd bus_;
    protocol::FrameReader remote_frames_;
    protocol::FrameReader bus_frames_;
    std::deque<sys::UniqueFd> fds_;
    protocol::u32 fds_taken_ = 0;
    std::vector<std::byte> queue_;      ///< frames for the remote
    std::vector<std::byte> bus_queue_;  ///< and for the bus
    protocol::u64 own_request_ = 0;
    Charge charge_;  ///< of descriptors and buffers

    RemoteMemory::Share share_;  ///< of mappings of our own
    client::ClientPages pages_;
    protocol::i64 stall_ns_ = 0;
    std::map<protocol::u64, RemoteMemory::SharedPeer> peers_;
    /// Those that have not been given up: an ATTACHED of another has crossed with that, and its
    /// slot is no longer ours.
    std::map<protocol::u64, Beginning> subscriptions_;
    std::map<protocol::u64, std::unique_ptr<Incoming>> incoming_;
    std::map<protocol::u64, std::unique_ptr<Outgoing>> outgoing_;
    /// Attachments that could not be made here, and their subscriptions: until the remote has heard
    /// of it, their slots are taken.
    std::map<protocol::u64, protocol::u64> refused_;
    std::set<protocol::u64> asks_;     ///< requests that are an ASK, and not answered yet
    std::set<protocol::u64> waiting_;  ///< of incoming_, those whose receiver waits
    bool digest_due_ = false;          ///< they may have room
    protocol::Source source_;
    std::unique_ptr<protocol::Waiter> waiter_;
    Incoming* complaining_ = nullptr;  ///< whose ring is at work
    protocol::u64 frames_heard_ = 0;   ///< of the bus, as the mailbox counts them
    /// Rings and looks in a row that brought nothing: beyond a number of them, a nap.
    unsigned fruitless_ = 0;
    unsigned naps_ = 0;  ///< in a row
    std::int64_t sweep_ns_ = 0;
    std::int64_t timer_due_ns_ = 0;
    std::int64_t drained_by_ns_ = 0;
    std::unique_ptr<sys::Alarm> alarm_;  ///< where the loop cannot wait for the bell

    OperationScope scope_;
    RecvOperation recv_;
    SendOperation send_;
    SendOperation bus_send_;
    PollOperation bus_poll_;
    FutexOperation bell_;
    PollOperation bell_poll_;
    Timer timer_;
};

}  // namespace ipcbus::daemon
