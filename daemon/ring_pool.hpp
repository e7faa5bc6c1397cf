// SPDX-License-Identifier: Apache-2.0
// The memory of rings as publishers get it first, and a few of the usual size kept ready: reserving
// one takes a quarter of a millisecond for each MiB, most of what connecting would take otherwise.
// A kernel worker makes the next one while the client does something with the last. What is ready
// counts in the bus's total, and gives way to whoever asks for it. Owned by the bus, the daemon's
// one thread.
#pragma once

#include "operations.hpp"
#include "quota.hpp"
#include "sys/mapping.hpp"

#include <vector>

namespace ipcbus::daemon {

struct RingMemory {
    SharedFd fd;         ///< read-write, sealed as at birth, reserved, all zeros
    sys::Mapping bytes;  ///< read-only, header and data once
};

/// Reserving up to here takes the loop less than a third of a millisecond; above, a kernel worker
/// does it.
inline constexpr std::uint64_t kReservedAtOnceMax = std::uint64_t{1} << 20;
/// Freeing takes half as long, and nobody waits for that: above this a worker does it. (It is
/// counted back when the worker is told: to reserve as much anew takes longer than to free it.)
inline constexpr std::uint64_t kFreedAtOnceMax = std::uint64_t{256} << 10;

/// A ring's memfd, not reserved yet.
[[nodiscard]] sys::Result<SharedFd> create_ring(EventLoop& loop, std::uint64_t ring_bytes);
/// One more descriptor of a ring, whose memory may go with it.
[[nodiscard]] SharedFd share_ring(EventLoop& loop, sys::UniqueFd fd, std::uint64_t ring_bytes);
/// The daemon's own look at a ring.
[[nodiscard]] sys::Result<sys::Mapping> map_ring_bytes(int fd, std::uint64_t ring_bytes);

class RingPool {
public:
    RingPool(EventLoop& loop, Quota& quota);

    /// `count` rings of `ring_bytes` each from now on; fewer, or none, if they are large.
    void configure(std::uint64_t ring_bytes, std::uint64_t count);
    /// Makes what is missing at once: before anybody waits.
    void fill();
    /// One of that size, if there is one: else `fd` is null. The next one is begun soon.
    [[nodiscard]] RingMemory take(std::uint64_t ring_bytes);
    /// Lets go of one, for a client that needs its room. False: there was nothing.
    bool give_way();
    [[nodiscard]] std::size_t size() const { return ready_.size(); }
    void close();

private:
    struct Ready {
        RingMemory memory;
        Charge charge;
    };

    void begin_later();
    [[nodiscard]] bool begin();
    void reserved(int error);
    bool finish(int error);
    void let_all_go();

    EventLoop& loop_;
    Quota& quota_;
    std::uint64_t ring_bytes_ = 0;
    std::uint64_t count_ = 0;
    std::vector<Ready> ready_;
    SharedFd making_;  ///< being reserved, if not null
    std::uint64_t making_bytes_ = 0;
    bool zeroed_ = false;  ///< its pages are there, and are being filled with zeros
    Charge making_charge_;
    bool begin_deferred_ = false;
    OperationScope scope_;
    FallocateOperation fallocate_;
};

}  // namespace ipcbus::daemon
