// SPDX-License-Identifier: Apache-2.0
// For the session fuzzer: a client that does what the input says: frames in any order, with ids
// that are true, foreign or invented; bytes; lies in the memory it was given; reading or not;
// hanging up, dying, resuming. One thread.
#pragma once

#include "bus_peer.hpp"

#include <memory>
#include <string>

namespace ipcbus::fuzz {

inline constexpr uid_t kHostileUid = 1000;
inline constexpr std::size_t kFdsKept = 6;

/// Ids that anybody has been told, by kind: the more interesting ones to name.
struct Known {
    enum Kind : std::size_t { client, publication, subscription, attachment, number, kinds };
    std::vector<u64> ids[kinds];
};

class Hostile {
public:
    Hostile(daemon::Bus& bus, Input& input, Known& known) : input_(input), known_(known) {
        const std::uint8_t how = input.byte();
        peer_ = std::make_unique<Peer>(bus, kHostileUid + (how & 1), 100 + (how >> 1 & 1),
                                       (how & 4) == 0);
        if ((how & 8) == 0) {  // most of what there is comes after this
            peer_->put(protocol::Hello{}, 1);
            peer_->put(protocol::Mapped{0}, 0);
            peer_->flush();
        }
    }

    void step() {
        switch (input_.below(16)) {
        case 0:
            peer_->put_raw(input_.bytes(input_.byte()));
            break;
        case 1:
            lie_in_memory();
            break;
        case 2:
            listen();
            break;
        case 3:
            peer_->flush(input_.byte());
            break;
        case 4:
            end();
            break;
        default:
            put_frame();
            if (input_.flag()) {
                peer_->flush();
            }
            break;
        }
    }
    void listen() {
        for (Incoming& incoming : peer_->receive()) {
            learn(incoming);
            unacknowledged_ += static_cast<u32>(incoming.fds.size());
            for (sys::UniqueFd& fd : incoming.fds) {
                if (fds_.size() < kFdsKept) {
                    fds_.push_back(std::move(fd));
                }
            }
        }
    }
    void leave() {
        peer_->die();
        peer_->close();
    }
    [[nodiscard]] const Peer& peer() const { return *peer_; }

private:
    void learn(const Incoming& incoming) {
        const auto know = [this](Known::Kind kind, u64 id) { known_.ids[kind].push_back(id); };
        switch (incoming.header.type) {
        case FrameType::welcome: {
            const auto frame = incoming.as<protocol::Welcome>();
            token_ = frame.token;
            know(Known::client, frame.client);
            return;
        }
        case FrameType::advertised: {
            const auto frame = incoming.as<protocol::Advertised>();
            know(Known::publication, frame.publication);
            unmapped_.push_back(frame.publication);
            return;
        }
        case FrameType::subscribed:
            know(Known::subscription, incoming.as<protocol::Subscribed>().subscription);
            return;
        case FrameType::attached:
            know(Known::attachment, incoming.as<protocol::Attached>().attachment);
            return;
        case FrameType::ended:
            ended_.push_back(incoming.as<protocol::Ended>().attachment);
            return;
        case FrameType::members: {
            const auto frame = incoming.as<protocol::Members>();
            know(Known::number, frame.number);
            for (const protocol::Member& member : frame.attach) {
                know(Known::attachment, member.attachment);
            }
            untaken_.push_back({frame.publication, frame.number});
            return;
        }
        default:
            return;
        }
    }
    /// Does what it owes, as a good client would.
    void behave() {
        listen();
        if (unacknowledged_ > 0) {
            peer_->put(protocol::Received{std::exchange(unacknowledged_, 0)}, 0);
        }
        for (const u64 publication : std::exchange(unmapped_, {})) {
            peer_->put(protocol::Mapped{publication}, 0);
        }
        for (const protocol::Taken& taken : std::exchange(untaken_, {})) {
            peer_->put(taken, 0);
        }
        for (const u64 attachment : std::exchange(ended_, {})) {
            peer_->put(protocol::Detached{attachment}, 0);
        }
        peer_->flush();
    }

    /// Most often one of that kind.
    u64 id(Known::Kind kind) {
        const std::uint8_t which = input_.byte();
        const auto& ids = known_.ids[which % 16 == 15 ? which / 16 % Known::kinds : kind];
        return which < 240 && !ids.empty() ? ids[ids.size() - 1 - which / 16 % ids.size()]
                                           : (which == 255 ? ~u64{0} : which - u64{240});
    }
    std::string name() {
        static constexpr const char* kNames[] = {"a",   "b",  "a/b", "a/+", "+",  "#",
                                                 "a/#", "$a", "",    "a//", "+a", "by/stander"};
        return kNames[input_.below(std::size(kNames))];
    }
    u64 ring_bytes() {
        static constexpr u64 kSizes[] = {0, 1, 4096, 65536, 262144, u64{2} << 20, u64{1} << 40};
        return kSizes[input_.below(std::size(kSizes))];
    }

    void put_frame() {
        const u64 request = input_.byte() % 8;
        switch (input_.below(14)) {
        case 0: {
            protocol::Hello frame;
            frame.protocol_major = input_.byte() == 0 ? 2 : 1;
            frame.name = input_.text(input_.below(70) % 65);
            peer_->put(frame, request);
            return;
        }
        case 1: {
            protocol::Resume frame;
            frame.client = id(Known::client);
            frame.token = token_;
            frame.token[0] ^= input_.byte() == 0 ? 1 : 0;
            peer_->put(frame, request);
            return;
        }
        case 2:
        case 3: {
            protocol::Advertise frame;
            frame.topic = name();
            frame.ring_bytes = ring_bytes();
            frame.record_bytes_max = input_.u16();
            frame.waiter = input_.byte() % 4;
            frame.lineage[0] = input_.byte() % 4;
            frame.first_sequence = input_.byte() - u64{3};
            peer_->put(frame, request);
            return;
        }
        case 4:
            peer_->put(protocol::Mapped{id(Known::publication)}, request);
            return;
        case 5:
            peer_->put(protocol::Unadvertise{id(Known::publication)}, request);
            return;
        case 7:
            peer_->put(protocol::SubscribeFrom{name(), static_cast<u8>(input_.byte() % 4),
                                               u64{1} << input_.byte() % 64},
                       request);
            return;
        case 6:
            peer_->put(protocol::Subscribe{name(), static_cast<u8>(input_.byte() % 4)}, request);
            return;
        case 8:
            peer_->put(protocol::Unsubscribe{id(Known::subscription)}, request);
            return;
        case 9:
            peer_->put(protocol::Detached{id(Known::attachment)}, request);
            return;
        case 10: {
            const u64 publication = id(Known::publication);
            peer_->put(protocol::Taken{publication, id(Known::number) + input_.byte() % 3},
                       request);
            return;
        }
        case 11: {
            const std::uint8_t lie = input_.byte();
            peer_->put(protocol::Received{lie < 200 ? unacknowledged_ : lie}, request);
            unacknowledged_ = 0;
            return;
        }
        case 12: {
            const u64 publication = id(Known::publication);
            const u64 attachment = id(Known::attachment);
            peer_->put(
                protocol::Complain{publication, attachment, static_cast<u8>(input_.byte() % 4)},
                request);
            return;
        }
        default:  // a frame of any type, the daemon's own included, with any fields
            const std::uint8_t type = input_.byte();
            if (put_exchange(static_cast<FrameType>(type), request)) {
                return;
            }
            const auto fields = input_.bytes(input_.byte());
            std::vector<std::byte> bytes;
            const std::size_t begin =
                protocol::begin_frame(bytes, static_cast<FrameType>(type), request);
            const auto raw = std::as_bytes(fields);
            bytes.insert(bytes.end(), raw.begin(), raw.end());
            protocol::end_frame(bytes, begin);
            peer_->put_raw({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
            return;
        }
    }

    /// Requests and replies, with fields that may mean something. False: of another type.
    bool put_exchange(FrameType type, u64 request) {
        switch (type) {
        case FrameType::ask: {
            protocol::Ask frame;
            frame.publication.topic = name();
            frame.publication.ring_bytes = ring_bytes();
            frame.publication.waiter = input_.byte() % 4;
            frame.publication.lineage[0] = input_.byte() % 4;
            frame.reply_ring_bytes = ring_bytes();
            peer_->put(frame, request);
            return true;
        }
        case FrameType::serve:
            peer_->put(protocol::Serve{name()}, request);
            return true;
        case FrameType::collect: {
            protocol::Collect frame;
            frame.lineage[0] = input_.byte() % 4;
            peer_->put(frame, request);
            return true;
        }
        case FrameType::respond: {
            const u64 attachment = id(Known::attachment);
            const u32 waiter = input_.byte() % 4;
            peer_->put(protocol::Respond{attachment, waiter, input_.byte() % u64{8}}, request);
            return true;
        }
        default:
            return false;
        }
    }

    /// Whatever a holder of these descriptors can do; most of it, the seals forbid.
    void lie_in_memory() {
        const std::uint8_t what = input_.byte();
        const std::uint64_t offset = input_.u16();
        const u64 value = input_.byte() < 128 ? input_.byte() * u64{16} : input_.u64();
        if (fds_.empty()) {
            return;
        }
        const int fd = fds_[what % fds_.size()].get();
        switch (what / 8 % 8) {
        case 0:
            (void)::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 65536);
            break;
        case 1:
            (void)::fcntl(fd, F_ADD_SEALS, static_cast<int>(value & 0x1f));
            break;
        case 2:
            FUZZ_CHECK(::ftruncate(fd, static_cast<off_t>(value)) != 0);
            break;
        case 3: {  // where the words are that are looked at most
            static constexpr off_t kWords[] = {0, 64, 128, 4096, 4104, 4192};
            (void)::pwrite(fd, &value, 8, kWords[offset % std::size(kWords)]);
            break;
        }
        case 4:
            pass_to_daemon(fd);
            break;
        default:
            (void)::pwrite(fd, &value, 8, static_cast<off_t>(offset & ~u64{7}));
            break;
        }
    }
    void pass_to_daemon(int fd) const {
        const std::byte byte{0};
        const int fds[] = {fd};
        if (peer_->socket() >= 0) {
            (void)::fcntl(peer_->socket(), F_SETFL, O_NONBLOCK);
            (void)sys::send_with_fds(peer_->socket(), {&byte, 1}, fds);
        }
    }
    void end() {
        switch (input_.below(4)) {
        case 0:
            peer_->die();
            break;
        case 1:
            peer_->close();
            break;
        case 2:
            peer_->shut_down();
            break;
        default:
            fds_.clear();
            break;
        }
    }

    Input& input_;
    Known& known_;
    std::unique_ptr<Peer> peer_;
    protocol::Id128 token_{};
    std::vector<sys::UniqueFd> fds_;
    u32 unacknowledged_ = 0;
    std::vector<u64> unmapped_;
    std::vector<protocol::Taken> untaken_;
    std::vector<u64> ended_;
};

}  // namespace ipcbus::fuzz
