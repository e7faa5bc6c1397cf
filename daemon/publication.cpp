// SPDX-License-Identifier: Apache-2.0
// Making, sealing and retiring a ring. See publication.hpp; why in this order: sys/memfd.hpp.
#include "publication.hpp"

#include "protocol/ring_writer.hpp"
#include "sys/memfd.hpp"

namespace ipcbus::daemon {

namespace {

/// Reserving up to here takes the loop less than a third of a millisecond; above, a kernel worker
/// does it. The same bound decides who frees the memory.
constexpr std::uint64_t kReservedAtOnceMax = std::uint64_t{1} << 20;

}  // namespace

Publication::Publication(EventLoop& loop, Description description, SharedPages publisher_pages,
                         Charge own_charge, SharedCharge ring_charge)
    : loop_(loop),
      about_(std::move(description)),
      publisher_pages_(std::move(publisher_pages)),
      own_charge_(std::move(own_charge)),
      ring_charge_(std::move(ring_charge)),
      scope_(loop),
      fallocate_(scope_, [this](int error) { reserved(error); }) {}

SharedFd Publication::share_ring(sys::UniqueFd fd) const {
    if (about_.ring_bytes <= kReservedAtOnceMax) {
        return share(std::move(fd));
    }
    return SharedFd(new sys::UniqueFd(std::move(fd)), [loop = &loop_](const sys::UniqueFd* last) {
        auto* mine = const_cast<sys::UniqueFd*>(last);
        loop->close_async(std::move(*mine));
        delete mine;
    });
}

void Publication::make(Done done) {
    IPCBUS_ASSERT(state_ == State::making && !done_);
    done_ = std::move(done);
    auto fd = sys::create_memfd("ipcbus-ring", protocol::kRingDataOffset + about_.ring_bytes);
    if (!fd.ok()) {
        finish(State::refused, std::move(fd.error()));
        return;
    }
    writable_ = share_ring(std::move(fd).value());
    if (auto sealed = sys::add_seals(writable_->get(), sys::kSealsAtBirth); !sealed.ok()) {
        finish(State::refused, std::move(sealed.error()));
        return;
    }
    reserve();
}

void Publication::seal(Done done) {
    IPCBUS_ASSERT(state_ == State::offered && !done_);
    done_ = std::move(done);
    state_ = State::sealing;
    // From here on no new writable mapping, no hole; then everything is reserved once more.
    if (auto sealed = sys::add_seals(writable_->get(), F_SEAL_FUTURE_WRITE); !sealed.ok()) {
        finish(State::refused, sys::fail(EPERM,
                                         "the ring cannot be sealed: its publisher had put "
                                         "a seal of its own there"));
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

/// Writes the header and the first terminator; both are in the first two pages.
sys::Result<void> Publication::format() {
    const std::size_t bytes = protocol::kRingDataOffset + protocol::kPageBytes;
    sys::Mapping head =
        IPCBUS_TRY(sys::map_shared(writable_->get(), 0, bytes, sys::Access::read_write));
    protocol::WritableRing ring;
    ring.header = reinterpret_cast<protocol::RingHeader*>(head.data());
    ring.data = head.data() + protocol::kRingDataOffset;
    ring.capacity = about_.ring_bytes;
    protocol::RingWriter::format(ring, about_.ring_bytes, about_.first_sequence, about_.id,
                                 about_.record_bytes_max);
    // For settle(): record headers are aligned and do not wrap, so the data is mapped once.
    ring_ = IPCBUS_TRY(sys::map_shared(writable_->get(), 0,
                                       protocol::kRingDataOffset + about_.ring_bytes,
                                       sys::Access::read_only));
    return {};
}

sys::Result<void> Publication::show() {
    IPCBUS_TRY(sys::expect_seals(writable_->get(), sys::kSealsRing));
    readable_ = share_ring(IPCBUS_TRY(sys::reopen_read_only(writable_->get())));
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

bool Publication::settle(protocol::Start& ret_start) const {
    IPCBUS_ASSERT(ring_.valid());
    const auto& header = *reinterpret_cast<const protocol::RingHeader*>(ring_.data());
    return protocol::settle_start(header, ring_.data() + protocol::kRingDataOffset,
                                  about_.ring_bytes, about_.record_bytes_max, first(), ret_start);
}

void Publication::end() {
    ended_ = true;
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
