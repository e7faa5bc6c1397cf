// SPDX-License-Identifier: Apache-2.0
// Making rings' memory, now or ahead of time. See ring_pool.hpp; why sealed like that:
// sys/memfd.hpp. The daemon's one thread.
#include "ring_pool.hpp"

#include "log.hpp"
#include "protocol/layout.hpp"
#include "sys/memfd.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace ipcbus::daemon {

namespace {

/// Larger ones are not kept: they are rare, and would be too much to have lying about. Nor more
/// than this of all together: fill() makes them before the daemon serves anybody, and whoever needs
/// their memory waits until they are freed.
constexpr std::uint64_t kReadyBytesMax = std::uint64_t{4} << 20;
constexpr std::uint64_t kReadyTotalMax = std::uint64_t{64} << 20;

std::uint64_t memory_bytes(std::uint64_t ring_bytes) {
    return protocol::kRingDataOffset + ring_bytes;
}

}  // namespace

sys::Result<SharedFd> create_ring(EventLoop& loop, std::uint64_t ring_bytes) {
    sys::UniqueFd fd = IPCBUS_TRY(sys::create_memfd("ipcbus-ring", memory_bytes(ring_bytes)));
    IPCBUS_TRY(sys::add_seals(fd.get(), sys::kSealsAtBirth));
    return share_ring(loop, std::move(fd), ring_bytes);
}

SharedFd share_ring(EventLoop& loop, sys::UniqueFd fd, std::uint64_t ring_bytes) {
    if (ring_bytes <= kFreedAtOnceMax) {
        return share(std::move(fd));
    }
    return SharedFd(new sys::UniqueFd(std::move(fd)), [&loop](const sys::UniqueFd* last) {
        auto* mine = const_cast<sys::UniqueFd*>(last);
        loop.close_async(std::move(*mine));
        delete mine;
    });
}

sys::Result<sys::Mapping> map_ring_bytes(int fd, std::uint64_t ring_bytes) {
    // Record headers are aligned and do not wrap, so the data is mapped once.
    return sys::map_shared(fd, 0, memory_bytes(ring_bytes), sys::Access::read_only);
}

// ------------------------------------------------------------------------------------- RingPool

RingPool::RingPool(EventLoop& loop, Quota& quota)
    : loop_(loop),
      quota_(quota),
      scope_(loop),
      fallocate_(scope_, [this](int error) { reserved(error); }) {}

void RingPool::configure(std::uint64_t ring_bytes, std::uint64_t count) {
    const std::uint64_t most = kReadyTotalMax / memory_bytes(ring_bytes);
    count_ = ring_bytes <= kReadyBytesMax ? std::min(count, most) : 0;
    if (ring_bytes_ != ring_bytes) {
        let_all_go();
    }
    ring_bytes_ = ring_bytes;
    while (ready_.size() > count_) {
        ready_.pop_back();
    }
    begin_later();
}

void RingPool::fill() {
    while (begin()) {
        const std::uint64_t bytes = memory_bytes(making_bytes_);
        // Twice: the first time gets the pages, the second one fills them with zeros.
        auto result = sys::reserve(making_->get(), 0, bytes);
        if (result.ok()) {
            result = sys::reserve(making_->get(), 0, bytes);
        }
        if (!finish(result.ok() ? 0 : result.error().code)) {
            return;
        }
    }
}

RingMemory RingPool::take(std::uint64_t ring_bytes) {
    if (ring_bytes != ring_bytes_) {
        return {};
    }
    begin_later();  // also if there is none: there may be room again
    if (ready_.empty()) {
        return {};
    }
    RingMemory memory = std::move(ready_.back().memory);
    ready_.pop_back();  // with its charge: from now on whoever takes it pays
    return memory;
}

/// Its memory is free before it is counted back: the last descriptor of a large one is closed by a
/// worker, at some time. Not so the one that is being made, which nothing can stop: then the bus is
/// above its total by one ring, for a millisecond.
bool RingPool::give_way() {
    if (!ready_.empty()) {
        (void)::fallocate(ready_.back().memory.fd->get(),
                          FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                          static_cast<off_t>(memory_bytes(ring_bytes_)));
        ready_.pop_back();
        return true;
    }
    const bool something = making_charge_ ? true : false;
    making_charge_.reset();
    return something;
}

void RingPool::let_all_go() {
    ready_.clear();
    making_charge_.reset();
}

void RingPool::close() {
    count_ = 0;
    let_all_go();
    scope_.close([] {});
}

/// After the next turn: what this one has to send goes first.
void RingPool::begin_later() {
    if (!std::exchange(begin_deferred_, true)) {
        loop_.defer(scope_, [this] {
            begin_deferred_ = false;
            if (begin()) {
                fallocate_.start(making_, 0, memory_bytes(making_bytes_));
            }
        });
    }
}

/// A memfd to be reserved, if one is missing and none is being made.
bool RingPool::begin() {
    if (making_ || ready_.size() >= count_) {
        return false;
    }
    making_charge_ =
        quota_.charge_bus(Amounts{.descriptors = 1, .ring_bytes = memory_bytes(ring_bytes_)});
    if (!making_charge_) {
        return false;
    }
    auto made = create_ring(loop_, ring_bytes_);
    if (!made.ok()) {
        making_charge_.reset();
        return false;
    }
    making_ = std::move(made).value();
    making_bytes_ = ring_bytes_;
    return true;
}

void RingPool::reserved(int error) {
    const bool again = error == EINTR || error == EAGAIN;
    if (again || (error == 0 && !std::exchange(zeroed_, true))) {
        fallocate_.start(making_, 0, memory_bytes(making_bytes_));
    } else if (finish(error)) {
        begin_later();
    }
}

/// False: it failed, and the next one would, too; whoever takes one tries again.
bool RingPool::finish(int error) {
    zeroed_ = false;
    const SharedFd fd = std::exchange(making_, nullptr);
    Charge charge = std::move(making_charge_);
    if (error != 0) {
        log_debug("no ring is kept ready: {}", std::strerror(error));
        return false;
    }
    if (!charge || making_bytes_ != ring_bytes_ || ready_.size() >= count_) {
        return true;  // not wanted any more
    }
    auto bytes = map_ring_bytes(fd->get(), making_bytes_);
    if (bytes.ok()) {
        ready_.push_back({{fd, std::move(bytes).value()}, std::move(charge)});
    }
    return bytes.ok();
}

}  // namespace ipcbus::daemon
