// SPDX-License-Identifier: Apache-2.0
// Making, sealing and retiring a ring. See publication.hpp; why in this order: sys/memfd.hpp.
#include "publication.hpp"

#include "protocol/ring_writer.hpp"
#include "sys/memfd.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>

namespace ipcbus::daemon {

Publication::Publication(EventLoop& loop, Description description, SharedPages publisher_pages,
                         Charge own_charge, SharedCharge ring_charge)
    : loop_(loop),
      about_(std::move(description)),
      publisher_pages_(std::move(publisher_pages)),
      own_charge_(std::move(own_charge)),
      ring_charge_(std::move(ring_charge)),
      figures_at_end_{first().position, first().sequence, true},
      scope_(loop),
      fallocate_(scope_, [this](int error) { reserved(error); }) {}

void Publication::make(RingMemory spare, Done done) {
    IPCBUS_ASSERT(state_ == State::making && !done_);
    done_ = std::move(done);
    if (spare.fd) {
        writable_ = std::move(spare.fd);
        ring_ = std::move(spare.bytes);
        reserved(0);
        return;
    }
    auto fd = create_ring(loop_, about_.ring_bytes);
    if (!fd.ok()) {
        finish(State::refused, std::move(fd.error()));
        return;
    }
    writable_ = std::move(fd).value();
    reserve();
}

void Publication::seal(Done done) {
    IPCBUS_ASSERT(state_ == State::offered && !done_);
    done_ = std::move(done);
    state_ = State::sealing;
    // From here on no new writable mapping, no hole; then everything is reserved once more. To look
    // at st_blocks instead would be faster, and wrong: a huge page that its publisher made beyond
    // the end (MADV_COLLAPSE) counts as blocks, and hides holes that he punched elsewhere.
    if (auto sealed = sys::add_seals(writable_->get(), F_SEAL_FUTURE_WRITE); !sealed.ok()) {
        const int code = sealed.error().code;
        finish(State::refused,
               sys::fail(code, "the ring cannot be sealed: " +
                                   (code == EPERM ? "its publisher had put a seal of its own there"
                                                  : sealed.error().what)));
        return;
    }
    reserve();
}

void Publication::reserve() {
    const std::uint64_t bytes = protocol::kRingDataOffset + about_.ring_bytes;
    if (bytes <= kReservedAtOnceMax + protocol::kRingDataOffset) {
        auto result = sys::reserve(writable_->get(), 0, bytes);
        reserved(result.ok() ? 0 : result.error().code);
    } else {
        fallocate_.start(writable_, 0, bytes);
    }
}

void Publication::reserved(int error) {
    if (error == EINTR || error == EAGAIN) {
        reserve();
        return;
    }
    if (error != 0) {
        finish(State::refused,
               sys::fail(error, "the memory of a ring of " + format_bytes(about_.ring_bytes) +
                                    " cannot be reserved: " + std::strerror(error)));
        return;
    }
    if (state_ == State::making) {
        finish(State::offered, format());
    } else {
        finish(State::open, show());
    }
}

/// Writes the header and the first terminator, which stand one behind the other: with write(), a
/// mapping just for them would cost several times as much.
sys::Result<void> Publication::format() {
    IPCBUS_ASSERT(first().position % about_.ring_bytes == 0);
    alignas(protocol::kCacheLine)
        std::array<std::byte, protocol::kRingDataOffset + protocol::kRecordHeaderBytes>
            head{};
    const protocol::WritableRing ring{reinterpret_cast<protocol::RingHeader*>(head.data()),
                                      head.data() + protocol::kRingDataOffset, about_.ring_bytes};
    protocol::RingWriter::format(ring, about_.ring_bytes, about_.first_sequence, about_.id,
                                 about_.record_bytes_max);
    const ssize_t written = ::pwrite(writable_->get(), head.data(), head.size(), 0);
    if (written < 0) {
        return sys::fail_errno("writing the header of a ring");
    }
    if (written != static_cast<ssize_t>(head.size())) {
        return sys::fail(ENOSPC, "the header of a ring was not written whole");
    }
    if (!ring_.valid()) {  // for settle()
        ring_ = IPCBUS_TRY(map_ring_bytes(writable_->get(), about_.ring_bytes));
    }
    return {};
}

sys::Result<void> Publication::show() {
    IPCBUS_TRY(sys::expect_seals(writable_->get(), sys::kSealsRing));
    readable_ =
        share_ring(loop_, IPCBUS_TRY(sys::reopen_read_only(writable_->get())), about_.ring_bytes);
    writable_.reset();
    return {};
}

void Publication::finish(State good, sys::Result<void> result) {
    state_ = result.ok() ? good : State::refused;
    if (!result.ok()) {
        let_go();
    }
    if (Done done = std::exchange(done_, nullptr)) {
        done(*this, std::move(result));
    }
}

bool Publication::settle(protocol::u64 history, protocol::Start& ret_start) const {
    IPCBUS_ASSERT(ring_.valid());
    return protocol::settle_start(header(), ring_.data() + protocol::kRingDataOffset,
                                  about_.ring_bytes, about_.record_bytes_max, first(), history,
                                  ret_start);
}

const protocol::RingHeader& Publication::header() const {
    return *reinterpret_cast<const protocol::RingHeader*>(ring_.data());
}

protocol::u64 Publication::newest() const {
    if (!ring_.valid()) {
        return newest_at_end_;
    }
    // relaxed: nothing is read there
    return header().newest.load(std::memory_order_relaxed);
}

protocol::RingFigures Publication::figures() const {
    if (!ring_.valid()) {
        return figures_at_end_;
    }
    return protocol::look_at_ring(header(), ring_.data() + protocol::kRingDataOffset,
                                  about_.ring_bytes, about_.record_bytes_max, first());
}

protocol::Behind Publication::behind(const protocol::RingFigures& now, protocol::u64 start,
                                     protocol::u64 cursor) const {
    if (!now.believable) {
        return {};
    }
    const bool mapped = ring_.valid();
    return protocol::look_behind(mapped ? &header() : nullptr,
                                 mapped ? ring_.data() + protocol::kRingDataOffset : nullptr,
                                 about_.ring_bytes, now, start, cursor);
}

protocol::u64 Publication::wanted() const {
    // relaxed: a figure
    return ring_.valid() ? header().wanted.load(std::memory_order_relaxed) : 0;
}

bool Publication::will_meet(Id subscription) const {
    return std::binary_search(first_readers.begin(), first_readers.end(), subscription,
                              std::greater<>());
}

void Publication::end() {
    ended_ = true;
    arriving = false;
    first_readers = {};
    newest_at_end_ = newest();
    figures_at_end_ = figures();
    ring_.reset();
    if (state_ == State::offered) {
        let_go();
    }
}

void Publication::let_go() {
    ring_.reset();
    writable_.reset();
    readable_.reset();
    own_charge_.reset();
}

void Publication::suspend(uid_t uid, std::int64_t until_ns) { suspended_[uid] = until_ns; }

bool Publication::suspended(uid_t uid, std::int64_t now_ns) const {
    const auto found = suspended_.find(uid);
    return found != suspended_.end() && now_ns < found->second;
}

}  // namespace ipcbus::daemon
