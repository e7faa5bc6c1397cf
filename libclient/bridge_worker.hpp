// SPDX-License-Identifier: Apache-2.0
// BridgeWorker: what the bridge's thread works on (bridge.hpp): the two sockets, the pages, and one
// end of each ring and stream. Everything belongs to that thread. The library is this process
// itself, and believed as far as its frames go; the daemon is another host's, and is not: every
// number of its frames is bounded here before a page is touched.
#pragma once

#include "client_pages.hpp"
#include "protocol/frame_reader.hpp"
#include "protocol/stream.hpp"
#include "protocol/waiter.hpp"
#include "sys/alarm.hpp"
#include "sys/tls_stream.hpp"

#include <deque>
#include <map>
#include <memory>
#include <set>

namespace ipcbus::client {

using protocol::u32;
using protocol::u64;

class BridgeWorker final : private protocol::Control {
public:
    /// `welcome`: the daemon's; `tcp`: connected, `frames` what was read of it and not used. The
    /// descriptors are borrowed. `dead_ns`: a host that has not answered for so long is dead.
    /// `tls`: null for plain text.
    BridgeWorker(int tcp, int library, int kick, const protocol::Welcome& welcome,
                 protocol::FrameReader frames, protocol::i64 dead_ns,
                 std::unique_ptr<sys::TlsStream> tls);
    [[nodiscard]] sys::Result<void> make_pages();
    /// Until both sides are through with each other.
    void run();

private:
    struct ToLibrary {
        std::vector<std::byte> bytes;
        std::vector<sys::UniqueFd> fds;
    };
    /// An app's publication: from its ring into a stream.
    struct Leaving final : protocol::Attachment {
        Leaving(const protocol::Advertised& told, sys::RingMapping mapped,
                std::unique_ptr<protocol::WriterWords> words, protocol::CursorSlot& slot,
                protocol::Source& source);
        std::unique_ptr<protocol::WriterWords> words;
        sys::RingMapping memory;
        u64 id;
        u32 index;
        protocol::StreamSender sender;
        bool listed = false;
        u64 answers = 0;       ///< of replies: the subscription whose requests these are to
        bool over = false;     ///< the app has ended it: UNADVERTISE is due behind its last message
        u64 unadvertised = 0;  ///< the request that said so
        u64 membership = 0;    ///< changes of it that the library was told of
        std::set<u64> responders;  ///< of requests: those that it knows
        bool awaited = false;      ///< of requests: who serves is not known yet,
        ToLibrary answer;          ///< so the library has not been told of its ring
    };
    /// An app's attachment: from a stream into its ring.
    struct Arriving {
        Arriving(const protocol::Attached& told, sys::RingMapping mapped, u64 bytes,
                 const ClientPages& own, protocol::Control& control);
        sys::RingMapping memory;
        u64 id;
        u64 subscription;
        u32 slot;
        protocol::MailboxPublication nobody{};  ///< its membership never changes
        protocol::RingPublisher ring;
        protocol::StreamReceiver receiver;
        protocol::u8 ended = 0;  ///< ENDED is due behind the last message
        bool broken = false;     ///< what came could not be true: nothing more is taken
    };

    // bridge_worker.cpp
    bool wait(u32 bell_seen);
    void read_library();
    bool read_daemon();
    void hear_sealed(std::span<const std::byte> bytes);
    void hear_daemon(std::span<const std::byte> bytes);
    void write_library();
    void write_daemon();
    [[nodiscard]] bool all_sent() const;
    void look_whether_dead();
    void announce();
    [[nodiscard]] bool all_digested() const;
    void daemon_lost(int code, std::string text);
    void library_gone();
    void detach_publications();
    void let_go();
    [[nodiscard]] bool through() const;
    template <class Frame>
    void to_library(const Frame& frame, u64 request, std::vector<sys::UniqueFd> fds = {}) {
        if (library_gone_) {
            return;
        }
        ToLibrary& out = library_out_.emplace_back();
        protocol::encode(out.bytes, frame, request);
        out.fds = std::move(fds);
    }
    template <class Frame>
    void to_daemon(const Frame& frame, u64 request = 0) {
        if (!lost_) {
            protocol::encode(daemon_out_, frame, request);
        }
    }

    // bridge_frames.cpp
    void library_frame(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void daemon_frame(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    [[nodiscard]] bool advertised(u64 request, const protocol::Advertised& frame);
    void change(Leaving& leaving, protocol::Members members);
    void begin(Leaving& leaving);
    [[nodiscard]] bool responders(const protocol::Responders& told);
    [[nodiscard]] bool attached(const protocol::Attached& frame);
    template <class Frame>
    void answered(u64 request, const Frame& frame);
    void introduce();
    void unadvertise(u64 request, u64 publication);
    void erase(u64 attachment);
    [[nodiscard]] bool has_room(u64 bytes) const;
    void refuse_attachment(const protocol::Attached& told);
    void forget_subscription(u64 subscription);
    void unsubscribe(const protocol::FrameHeader& header, u64 subscription);
    void unsubscribe_served();
    void pass(std::vector<std::byte>& out, const protocol::FrameHeader& header,
              std::span<const std::byte> fields);
    void refuse(u64 request, const sys::Error& error);

    // bridge_worker.cpp: messages
    void settle(Arriving& arriving, protocol::StreamReceiver::State state);
    void digest_all();
    bool fill();
    void list(Leaving& leaving);
    void unlist(Leaving& leaving);
    void sent_all(Leaving& leaving);

    // protocol::Control: the one reader of an attachment's ring is there from the start.
    Heard take_in(u64) override { return Heard::nothing; }
    Heard look() override { return Heard::nothing; }
    void complain(const protocol::ReaderTable::Fault&) override {}
    bool is_own(u64) override { return false; }

    int tcp_;
    int library_;
    int kick_;
    protocol::Welcome welcome_;
    bool lost_ = false;  ///< the daemon
    bool library_gone_ = false;
    bool let_go_ = false;  ///< after `lost_`: all has been put into the rings, or it is time
    protocol::i64 let_go_at_ns_ = 0;
    protocol::i64 stall_ns_ = 0;  ///< as the daemon told it
    protocol::i64 dead_ns_;
    protocol::i64 next_look_ns_ = 0;  ///< whether it is dead
    bool polled_ = false;             ///< nobody rings for some of what is active
    bool introduced_ = false;
    bool daemon_speaks_ = true;  ///< as poll() knows
    bool library_speaks_ = true;
    protocol::FrameReader daemon_frames_;
    protocol::FrameReader library_frames_;
    std::unique_ptr<sys::TlsStream> tls_;
    std::vector<std::byte> daemon_out_;  ///< frames
    std::vector<std::byte> wire_;        ///< what the socket is given, sealed or not
    std::size_t wire_sent_ = 0;
    std::deque<ToLibrary> library_out_;
    std::size_t library_sent_ = 0;  ///< bytes of the first
    unsigned fds_out_ = 0;          ///< descriptors on the way

    ClientPages app_;  ///< of the library's client
    ClientPages own_;
    std::vector<sys::UniqueFd> app_fds_;  ///< for WELCOME
    std::vector<sys::UniqueFd> own_fds_;  ///< for PEER: cursor page and doorbell page
    protocol::PeerWaiters app_waiters_;
    std::unique_ptr<sys::Alarm> alarm_;  ///< of own_'s bell
    std::map<u64, u32> waiters_;   ///< of ADVERTISE requests on their way: the publisher's waiter
    std::set<u64> asks_;           ///< those of them that are an ASK,
    std::map<u64, u64> responds_;  ///< or a RESPOND, and the subscription that it is about
    std::set<u64> serves_;         ///< SERVE requests on their way
    std::set<u64> serving_;        ///< subscriptions to requests
    /// Those that are over, and the requests that say so: to be passed on behind the replies.
    std::vector<std::pair<u64, u64>> served_;
    std::set<u64> subscriptions_;  ///< that the library has not given up
    std::set<u64> history_asked_;  ///< SUBSCRIBE_FROM requests on their way
    std::set<u64> beginning_;      ///< subscriptions that CAUGHT_UP is awaited for
    std::map<u64, std::unique_ptr<Leaving>> leaving_;
    std::map<u64, std::unique_ptr<Arriving>> arriving_;
    std::set<u32> slots_;  ///< those of arriving_
    u64 rings_bytes_ = 0;  ///< of leaving_ and arriving_
    protocol::Source source_;
    std::unique_ptr<protocol::Waiter> waiter_;
    u64 own_request_ = u64{1} << 62;
};

}  // namespace ipcbus::client
