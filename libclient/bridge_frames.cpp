// SPDX-License-Identifier: Apache-2.0
// Frames between the library and the daemon of another host: most pass through as they are; those
// with descriptors get theirs here, and what they promise is made: rings, pages, membership. See
// bridge.hpp, bridge_worker.hpp.
#include "bridge.hpp"
#include "bridge_worker.hpp"
#include "sys/memfd.hpp"

#include <unistd.h>

#include <algorithm>
#include <bit>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameType;
using sys::Result;

namespace {

constexpr auto kGone = static_cast<protocol::u8>(protocol::EndReason::publisher_gone);
constexpr auto kTaken = static_cast<protocol::u8>(protocol::EndReason::detached);
constexpr u64 kOwnRequest = u64{1} << 62;
/// An attachment's ring, unless its messages need a larger one: enough for two windows.
constexpr u64 kRingBytes = u64{1} << 20;

bool good_ring(u64 ring_bytes, u32 record_bytes_max) {
    return std::has_single_bit(ring_bytes) && ring_bytes >= protocol::kRingBytesMin &&
           ring_bytes <= protocol::kRingBytesMax &&
           record_bytes_max % protocol::kRecordAlignment == 0 &&
           record_bytes_max >= protocol::kGapBytes &&
           record_bytes_max <= protocol::record_bytes_max(ring_bytes);
}

/// No larger than its original, which it can always be as large as. With `history` it is: for what
/// is in that is to be here before anybody reads it.
u64 ring_bytes_for(const protocol::Attached& told, bool history) {
    u64 bytes = history ? told.ring_bytes : std::min(told.ring_bytes, kRingBytes);
    while (protocol::record_bytes_max(bytes) < told.record_bytes_max) {
        bytes *= 2;
    }
    return bytes;
}

/// Who serves one topic, as far as a daemon is believed.
constexpr std::size_t kRespondersMax = 65536;

/// Of all rings: what a daemon that means ill can take of this host.
u64 rings_bytes_max() {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    return pages <= 0 ? kRingBytes * 1024 : static_cast<u64>(pages) * protocol::kPageBytes / 4;
}

struct MadeRing {
    sys::UniqueFd fd;  ///< for the library
    sys::RingMapping memory;
};

/// A ring as the daemon makes them: reserved, formatted; sealed, if the library only reads it.
Result<MadeRing> make_ring(u64 bytes, u64 first_sequence, u64 publication, u32 record_bytes_max,
                           bool read_only) {
    const u64 all = protocol::kRingDataOffset + bytes;
    sys::UniqueFd fd = IPCBUS_TRY(sys::create_memfd("ipcbus-ring", all));
    IPCBUS_TRY(sys::add_seals(fd.get(), sys::kSealsAtBirth));
    IPCBUS_TRY(sys::reserve(fd.get(), 0, all));
    MadeRing made;
    made.memory = IPCBUS_TRY(
        sys::map_ring(fd.get(), protocol::kRingDataOffset, bytes, sys::Access::read_write));
    protocol::RingWriter::format(
        protocol::WritableRing{reinterpret_cast<protocol::RingHeader*>(made.memory.header()),
                               made.memory.data(), bytes},
        bytes, first_sequence, publication, record_bytes_max);
    if (read_only) {
        IPCBUS_TRY(sys::add_seals(fd.get(), F_SEAL_FUTURE_WRITE));
        made.fd = IPCBUS_TRY(sys::reopen_read_only(fd.get()));
    } else {
        made.fd = std::move(fd);
    }
    return made;
}

std::vector<sys::UniqueFd> one(sys::UniqueFd fd) {
    std::vector<sys::UniqueFd> fds;
    fds.push_back(std::move(fd));
    return fds;
}

}  // namespace

void BridgeWorker::pass(std::vector<std::byte>& out, const FrameHeader& header,
                        std::span<const std::byte> fields) {
    const std::size_t begin = protocol::begin_frame(out, header.type, header.request);
    out.insert(out.end(), fields.begin(), fields.end());
    protocol::end_frame(out, begin);
}

void BridgeWorker::refuse(u64 request, const sys::Error& error) {
    protocol::ErrorFrame frame;
    frame.code = static_cast<u32>(error.code);
    frame.text = error.what.substr(0, protocol::kErrorTextBytesMax);
    to_library(frame, request);
}

// ----------------------------------------------------------------------------- from the library

void BridgeWorker::library_frame(const FrameHeader& header, std::span<const std::byte> fields) {
    const auto about = [&]<class Frame>(Frame frame, auto handle) {
        if (protocol::decode(fields, frame)) {
            handle(frame);
        }
    };
    switch (header.type) {
    case FrameType::hello:
        if (!app_fds_.empty()) {
            to_library(welcome_, header.request, std::exchange(app_fds_, {}));
        }
        return;
    case FrameType::received:
        about(protocol::Received{},
              [&](const auto& frame) { fds_out_ -= std::min(fds_out_, frame.fds); });
        return;
    case FrameType::advertise:
        about(protocol::Advertise{}, [&](auto frame) {
            waiters_[header.request] = std::min(frame.waiter, app_.geometry.waiters_max - 1);
            frame.waiter = 0;
            to_daemon(frame, header.request);
        });
        return;
    case FrameType::ask:
        about(protocol::Ask{}, [&](auto frame) {
            waiters_[header.request] =
                std::min(frame.publication.waiter, app_.geometry.waiters_max - 1);
            frame.publication.waiter = 0;
            asks_.insert(header.request);
            to_daemon(frame, header.request);
        });
        return;
    case FrameType::respond:
        about(protocol::Respond{}, [&](auto frame) {
            waiters_[header.request] = std::min(frame.waiter, app_.geometry.waiters_max - 1);
            frame.waiter = 0;
            const auto asked = arriving_.find(frame.attachment);
            responds_[header.request] = asked == arriving_.end() ? 0 : asked->second->subscription;
            to_daemon(frame, header.request);
        });
        return;
    case FrameType::unadvertise:
        about(protocol::Unadvertise{},
              [&](const auto& frame) { unadvertise(header.request, frame.publication); });
        return;
    case FrameType::unsubscribe:
        about(protocol::Unsubscribe{},
              [&](const auto& frame) { unsubscribe(header, frame.subscription); });
        return;
    case FrameType::detached: {
        bool known = false;
        about(protocol::Detached{}, [&](const auto& frame) {
            known = arriving_.contains(frame.attachment);
            erase(frame.attachment);
        });
        if (!known) {
            return;
        }
        break;
    }
    case FrameType::serve:
        serves_.insert(header.request);
        break;
    case FrameType::subscribe:
    case FrameType::collect:
        break;
    case FrameType::subscribe_from:
        history_asked_.insert(header.request);
        break;
    case FrameType::mapped:
    case FrameType::taken:
    case FrameType::complain:
        return;  // about memory, which is ours
    default:
        refuse(header.request,
               sys::fail(EPROTONOSUPPORT, std::string(protocol::frame_name(header.type)) +
                                              ": not carried to a bus on another host (tcp:)"));
        return;
    }
    if (!lost_) {
        pass(daemon_out_, header, fields);
    }
}

/// For the library it is over at once; its messages go out before the daemon is told.
void BridgeWorker::unadvertise(u64 request, u64 publication) {
    const auto found = leaving_.find(publication);
    if (found == leaving_.end()) {
        refuse(request, sys::fail(ENOENT, "no such publication"));
        return;
    }
    to_library(protocol::Done{}, request);
    found->second->over = true;
    if (found->second->sender.ended()) {
        sent_all(*found->second);
    }
}

/// Who serves no more has nothing more to say: so the daemon is told behind the last reply.
void BridgeWorker::unsubscribe(const FrameHeader& header, u64 subscription) {
    forget_subscription(subscription);
    if (serving_.erase(subscription) == 0) {
        to_daemon(protocol::Unsubscribe{subscription}, header.request);
        return;
    }
    served_.emplace_back(subscription, header.request);
    unsubscribe_served();
}

void BridgeWorker::unsubscribe_served() {
    std::erase_if(served_, [this](const auto& served) {
        const auto& [subscription, request] = served;
        for (const auto& [id, leaving] : leaving_) {
            if (leaving->answers == subscription && leaving->over) {
                return false;
            }
        }
        to_daemon(protocol::Unsubscribe{subscription}, request);
        return true;
    });
}

void BridgeWorker::forget_subscription(u64 subscription) {
    subscriptions_.erase(subscription);
    beginning_.erase(subscription);
    for (auto next = arriving_.begin(); next != arriving_.end();) {
        const auto& [id, arriving] = *next++;
        if (arriving->subscription == subscription) {
            erase(id);
        }
    }
}

/// The library has let go of it, if it had it.
void BridgeWorker::erase(u64 attachment) {
    if (const auto found = arriving_.find(attachment); found != arriving_.end()) {
        slots_.erase(found->second->slot);
        rings_bytes_ -= found->second->memory.capacity();
        arriving_.erase(found);
    }
}

// ------------------------------------------------------------------------------ from the daemon

void BridgeWorker::daemon_frame(const FrameHeader& header, std::span<const std::byte> fields) {
    bool good = true;
    const auto about = [&]<class Frame>(Frame frame, auto handle) {
        good = protocol::decode(fields, frame);
        if (good) {
            handle(frame);
        }
    };
    switch (header.type) {
    case FrameType::data: {
        protocol::DataHead head;
        std::span<const std::byte> bytes;
        good = protocol::decode_data(fields, head, bytes);
        // Of one that we have let go of: it has crossed with that.
        if (const auto found = arriving_.find(head.stream);
            good && found != arriving_.end() && !found->second->broken) {
            settle(*found->second, found->second->receiver.receive(head.offset, bytes));
        }
        break;
    }
    case FrameType::credit:
        about(protocol::Credit{}, [&](const auto& frame) {
            if (const auto found = leaving_.find(frame.stream); found != leaving_.end()) {
                found->second->sender.allow(frame.bytes);
                list(*found->second);
            }
        });
        break;
    case FrameType::readers:
        about(protocol::Readers{}, [&](const auto& frame) {
            if (const auto found = leaving_.find(frame.publication); found != leaving_.end()) {
                // relaxed: a figure
                app_.mail(found->second->index)
                    .readers.store(frame.count, std::memory_order_relaxed);
                announce();
            }
        });
        break;
    case FrameType::responders:
        about(protocol::Responders{}, [&](const auto& frame) { good = responders(frame); });
        break;
    case FrameType::overtaken:
        about(protocol::Overtaken{}, [&](auto frame) {
            if (const auto found = leaving_.find(frame.publication);
                found != leaving_.end() && found->second->responders.contains(frame.attachment)) {
                frame.from += found->second->memory.capacity();  // where its ring began
                frame.to += found->second->memory.capacity();
                to_library(frame, 0);
            }
        });
        break;
    case FrameType::refused:
        about(protocol::Refused{}, [&](const auto& frame) {
            if (const auto found = leaving_.find(frame.publication);
                found != leaving_.end() && found->second->responders.contains(frame.attachment)) {
                to_library(frame, 0);
            }
        });
        break;
    case FrameType::revoked:
        about(protocol::Revoked{}, [&](const auto& frame) { to_library(frame, 0); });
        break;
    case FrameType::advertised:
        about(protocol::Advertised{},
              [&](const auto& frame) { good = advertised(header.request, frame); });
        break;
    case FrameType::attached:
        about(protocol::Attached{}, [&](const auto& frame) { good = attached(frame); });
        break;
    case FrameType::ended:
        about(protocol::Ended{}, [&](const auto& frame) {
            if (const auto found = arriving_.find(frame.attachment);
                found != arriving_.end() && (frame.reason == kGone || frame.reason == kTaken) &&
                !found->second->broken) {
                found->second->ended = frame.reason;
                settle(*found->second, protocol::StreamReceiver::State::digested);
            }
        });
        break;
    case FrameType::stopping:
        daemon_lost(0, "the daemon is stopping");
        return;
    case FrameType::done:
        about(protocol::Done{}, [&](const auto& frame) { answered(header.request, frame); });
        break;
    case FrameType::error:
        about(protocol::ErrorFrame{}, [&](const auto& frame) { answered(header.request, frame); });
        break;
    case FrameType::subscribed:
        about(protocol::Subscribed{}, [&](const auto& frame) {
            subscriptions_.insert(frame.subscription);
            if (serves_.erase(header.request) != 0) {
                serving_.insert(frame.subscription);
            }
            if (history_asked_.erase(header.request) != 0) {
                beginning_.insert(frame.subscription);
            }
            to_library(frame, header.request);
        });
        break;
    case FrameType::caught_up:
        about(protocol::CaughtUp{}, [&](const auto& frame) {
            if (beginning_.erase(frame.subscription) != 0) {
                to_library(frame, 0);
            }
        });
        break;
    default:
        good = false;
    }
    if (!good) {
        daemon_lost(EPROTO, std::string("the daemon sent a ") + protocol::frame_name(header.type) +
                                " that cannot be true");
    }
}

/// To a request of the library's, or to one of our own: that a publication has ended.
template <class Frame>
void BridgeWorker::answered(u64 request, const Frame& frame) {
    if (request < kOwnRequest) {
        waiters_.erase(request);
        asks_.erase(request);
        responds_.erase(request);
        serves_.erase(request);
        history_asked_.erase(request);
        to_library(frame, request);
        return;
    }
    const auto found = std::find_if(leaving_.begin(), leaving_.end(), [request](const auto& entry) {
        return entry.second->unadvertised == request;
    });
    if (found != leaving_.end()) {
        unlist(*found->second);
        found->second->clear_slot();
        rings_bytes_ -= found->second->memory.capacity();
        leaving_.erase(found);
        unsubscribe_served();
    }
}

/// Once: whose cursors the library's publishers look at, and whom its subscribers call.
void BridgeWorker::introduce() {
    if (std::exchange(introduced_, true)) {
        return;
    }
    protocol::Peer frame;
    frame.client = kBridgeClient;
    frame.geometry = own_.geometry;
    frame.pages = protocol::kPeerCursor | protocol::kPeerDoorbell;
    to_library(frame, 0, std::exchange(own_fds_, {}));
}

bool BridgeWorker::advertised(u64 request, const protocol::Advertised& told) {
    const auto waiter = waiters_.find(request);
    const bool index_in_use = std::any_of(leaving_.begin(), leaving_.end(), [&](const auto& entry) {
        return entry.second->index == told.index;
    });
    if (waiter == waiters_.end() || leaving_.contains(told.publication) || index_in_use ||
        told.index >= app_.geometry.publications_max ||
        !good_ring(told.ring_bytes, told.record_bytes_max)) {
        return false;
    }
    const u32 number = waiter->second;
    waiters_.erase(waiter);
    const bool asks = asks_.erase(request) != 0;
    const auto responds = responds_.extract(request);
    Result<MadeRing> made =
        library_gone_ ? Result<MadeRing>(sys::fail(ECANCELED, "nobody is there to publish"))
        : !has_room(told.ring_bytes)
            ? Result<MadeRing>(sys::fail(ENOMEM, "publication: too many and too large rings"))
            : make_ring(told.ring_bytes, told.first_sequence, told.publication,
                        told.record_bytes_max, false);
    if (!made.ok()) {
        to_daemon(protocol::Unadvertise{told.publication}, ++own_request_);
        refuse(request, made.error());
        return true;
    }
    auto words = std::make_unique<protocol::WriterWords>(
        protocol::WriterWords{&app_.publication(told.index), &app_.waiter(number).bell});
    rings_bytes_ += told.ring_bytes;
    leaving_.emplace(told.publication,
                     std::make_unique<Leaving>(told, std::move(made.value().memory),
                                               std::move(words), own_.slot(told.index), source_));
    // relaxed: a figure
    app_.mail(told.index).readers.store(0, std::memory_order_relaxed);
    introduce();
    protocol::Advertised frame = told;
    frame.start = told.ring_bytes;
    Leaving& leaving = *leaving_.at(told.publication);
    protocol::encode(leaving.answer.bytes, frame, request);
    leaving.answer.fds = one(std::move(made.value().fd));
    leaving.awaited = asks;
    leaving.answers = responds ? responds.mapped() : 0;
    if (!asks) {
        begin(leaving);
    }
    return true;
}

/// The library gets its ring, whose one reader is here.
void BridgeWorker::begin(Leaving& leaving) {
    if (!library_gone_) {
        library_out_.push_back(std::exchange(leaving.answer, {}));
    }
    protocol::Members members;
    members.attach.push_back(
        {leaving.id, kBridgeClient, leaving.index, leaving.memory.capacity(), 1});
    change(leaving, std::move(members));
}

/// Tells the library who reads its publication now.
void BridgeWorker::change(Leaving& leaving, protocol::Members members) {
    members.publication = leaving.id;
    members.number = ++leaving.membership;
    // release: [J1]; the frame is sent by a system call after it.
    app_.mail(leaving.index).attention.store(members.number, std::memory_order_release);
    to_library(members, 0);
}

/// Who serves is for the library's requester to know, who asks one of them. None of them reads the
/// ring: that does the bridge, whose own attachment has the publication's number. A requester has
/// no ring before it can know that nobody serves.
bool BridgeWorker::responders(const protocol::Responders& told) {
    const auto found = leaving_.find(told.publication);
    if (found == leaving_.end()) {
        return true;  // it has crossed with the end of that
    }
    Leaving& leaving = *found->second;
    protocol::Members members;
    for (const u64 attachment : told.attach) {
        if (attachment != leaving.id && leaving.responders.insert(attachment).second) {
            members.attach.push_back({attachment, kBridgeClient, leaving.index, 0, 0});
        }
    }
    for (const u64 attachment : told.detach) {
        if (leaving.responders.erase(attachment) != 0) {
            members.detach.push_back(attachment);
        }
    }
    if (leaving.responders.size() > kRespondersMax) {
        return false;
    }
    if (!leaving.awaited) {
        if (!members.attach.empty() || !members.detach.empty()) {
            change(leaving, std::move(members));
        }
    } else if (told.complete != 0) {
        leaving.awaited = false;
        begin(leaving);
        for (auto next = leaving.responders.begin(); next != leaving.responders.end();) {
            protocol::Members some;
            while (next != leaving.responders.end() &&
                   some.attach.size() < protocol::kMembersPerFrameMax) {
                some.attach.push_back({*next++, kBridgeClient, leaving.index, 0, 0});
            }
            change(leaving, std::move(some));
        }
    }
    // release: behind the change, as in ClientMemory::store_readers() of the daemon. Pairs with
    // Publisher::subscriber_count().
    app_.mail(leaving.index)
        .readers.store(static_cast<u32>(leaving.responders.size()), std::memory_order_release);
    return true;
}

bool BridgeWorker::has_room(u64 bytes) const {
    const u64 most = rings_bytes_max();
    return bytes <= most && rings_bytes_ <= most - bytes;
}

/// The library says so to whoever receives next.
void BridgeWorker::refuse_attachment(const protocol::Attached& told) {
    to_daemon(protocol::Detached{told.attachment});
    Result<sys::UniqueFd> nothing = sys::create_memfd("ipcbus-none", protocol::kPageBytes);
    if (nothing.ok()) {
        protocol::Attached frame = told;
        frame.peer = kBridgeClient;
        frame.ring_bytes = 0;
        to_library(frame, 0, one(std::move(nothing).value()));
    }
}

bool BridgeWorker::attached(const protocol::Attached& told) {
    if (library_gone_ || !subscriptions_.contains(told.subscription)) {
        return true;  // it has crossed with the end of that
    }
    if (arriving_.contains(told.attachment) || told.slot >= app_.geometry.attachments_max ||
        slots_.contains(told.slot) || !good_ring(told.ring_bytes, told.record_bytes_max)) {
        return false;
    }
    const u64 bytes = ring_bytes_for(told, beginning_.contains(told.subscription));
    Result<MadeRing> made =
        !has_room(bytes)
            ? Result<MadeRing>(sys::fail(ENOMEM, "too many rings"))
            : make_ring(bytes, told.start_sequence, told.publication, told.record_bytes_max, true);
    introduce();
    if (!made.ok()) {
        refuse_attachment(told);
        return true;
    }
    protocol::Control& control = *this;
    auto arriving =
        std::make_unique<Arriving>(told, std::move(made.value().memory), bytes, own_, control);
    arriving->ring.readers().add(
        protocol::ReaderEntry{told.attachment, &app_.slot(told.slot), &app_waiters_,
                              told.slot % protocol::kActivityBits, bytes, true});
    to_daemon(protocol::Credit{told.attachment, arriving->receiver.grant()});
    arriving_.emplace(told.attachment, std::move(arriving));
    slots_.insert(told.slot);
    rings_bytes_ += bytes;
    protocol::Attached frame = told;
    frame.peer = kBridgeClient;
    frame.index = told.slot;
    frame.waiter = 0;
    frame.ring_bytes = bytes;
    frame.record_bytes_max = told.record_bytes_max | protocol::kRelayed;
    frame.start = bytes;
    to_library(frame, 0, one(std::move(made.value().fd)));
    return true;
}

}  // namespace ipcbus::client
