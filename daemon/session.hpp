// SPDX-License-Identifier: Apache-2.0
// One control connection: bytes in, frames out, and who is at the other end. Knows frames and the
// order in which they may come; what they mean is the bus's business (bus.hpp). Ends with the
// socket's hang-up or with the death of the process that connected, whatever comes first; what was
// received before is processed first. Owned by the bus, the daemon's one thread.
//
//   awaiting_hello -> active -> closing -> closed
//        \______________\_______/            closing: an ERROR is on its way out, nothing is read
//
// Closed, it stays as long as the other end holds descriptors of ours unread: they count against
// what may be on the way, and the kernel tells of them only here.
#pragma once

#include "listener.hpp"
#include "outbox.hpp"
#include "protocol/frame_reader.hpp"
#include "quota.hpp"

#include <functional>

namespace ipcbus::daemon {

class Bus;
class Client;

class Session {
public:
    enum class State { awaiting_hello, active, closing, closed };

    Session(Bus& bus, EventLoop& loop, FdBudget& budget, sys::UniqueFd socket, PeerIdentity peer);

    /// Begins to receive. A connection that says nothing for kSilenceNs is closed.
    void start(Charge charge);

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] Client* client() const { return client_; }
    [[nodiscard]] uid_t uid() const { return peer_.uid; }
    [[nodiscard]] pid_t pid() const { return peer_.pid; }
    /// As the rules of access know it.
    [[nodiscard]] Identity identity() const;
    /// The other end is the daemon itself, on behalf of a client over TCP.
    [[nodiscard]] bool remote() const { return peer_.remote; }
    /// Known to be dead, by its pidfd.
    [[nodiscard]] bool process_dead() const { return process_dead_; }
    /// By which the kernel tells of the process's death, also after the session; null: it cannot.
    [[nodiscard]] const SharedFd& pidfd() const { return pidfd_; }
    /// For the log.
    [[nodiscard]] std::string describe() const;

    /// awaiting_hello -> active, on behalf of that client.
    void serve(Client& client);
    /// The client has moved to another session, or is gone: this one goes on without it.
    void leave_client() { client_ = nullptr; }

    /// Sends, or keeps until the current send is done.
    template <class Frame>
    void reply(const Frame& frame, std::uint64_t request) {
        if (state_ != State::closed && state_ != State::closing) {
            outbox_.add(frame, request);
            touch();
        }
    }
    /// ERROR to a request; the session goes on.
    void refuse(std::uint64_t request, const sys::Error& error);
    /// ERROR, then the end. The client is gone when this returns.
    void fail(std::uint64_t request, const sys::Error& error);
    void close();
    /// close(), without waiting for anything.
    void abandon();

    /// Works off jobs of the client and frames that have been received, for a slice of time. False:
    /// some are left. Called by the bus, in turn.
    bool work();
    /// There is something for work().
    void work_later();

    /// For state frames: the bus adds them in Bus::tell().
    [[nodiscard]] Outbox& outbox() { return outbox_; }
    /// Something is to be told or sent: pump() comes at the end of this turn.
    void touch();
    /// Starts the next send. Called by the bus.
    void pump();
    /// Once nothing of it is under way any more.
    void on_closed(std::function<void()> closed) { scope_.close(std::move(closed)); }

private:
    static constexpr std::int64_t kSilenceNs = 10'000'000'000;
    static constexpr std::int64_t kRetryMinNs = 50'000'000;
    static constexpr std::int64_t kRetryMaxNs = 2'000'000'000;
    /// What one connection may have done for it at once, before it is others' turn.
    static constexpr std::int64_t kSliceNs = 1'000'000;
    /// Received and not yet worked off: above, nothing more is received.
    static constexpr std::uint64_t kBacklogBytesMax = 64 * 1024;

    void received(std::span<const std::byte> bytes);
    void receive_ended(int error);
    bool work_off();
    [[nodiscard]] std::uint64_t backlog_bytes() const {
        return received_bytes_ - reader_.consumed();
    }
    void dispatch(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void dispatch_active(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void dispatch_exchange(const protocol::FrameHeader& header, const auto& hand_over);
    template <class Frame>
    bool decoded(const protocol::FrameHeader& header, std::span<const std::byte> fields,
                 Frame& ret_frame);
    void send(Outbox::Chunk chunk);
    void sent(int error);
    void acknowledge(const protocol::FrameHeader& header, const protocol::Received& frame);
    /// Asks the kernel. True: nothing that was sent is unread.
    bool all_read();
    void retry_later();
    void time_is_over();
    void finish_close();
    void watch_ended(int error);

    Bus& bus_;
    State state_ = State::awaiting_hello;
    bool touched_ = false;
    bool process_dead_ = false;
    bool work_queued_ = false;  ///< the bus will call work()
    bool peer_ended_ = false;   ///< nothing more will be received
    int receive_error_ = 0;     ///< nor then
    bool finished_ = false;     ///< the bus has been told to forget it
    std::uint64_t received_bytes_ = 0;
    std::int64_t retry_ns_ = kRetryMinNs;
    sys::UniqueFd socket_;
    SharedFd pidfd_;
    PeerIdentity peer_;
    Client* client_ = nullptr;
    Charge charge_;
    protocol::FrameReader reader_;
    Outbox outbox_;
    Outbox::Chunk with_fds_;  ///< the one being sent, if it has descriptors: may have to go again
    bool resend_ = false;     ///< with_fds_ waits for the timer
    OperationScope scope_;
    RecvOperation recv_;
    SendOperation send_;
    PollOperation death_;
    Timer timer_;
};

}  // namespace ipcbus::daemon
