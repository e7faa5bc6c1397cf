// SPDX-License-Identifier: Apache-2.0
// io_uring by system calls, as far as waiting for futexes needs it. See futex_ring.hpp.
#include "sys/futex_ring.hpp"

#include "sys/clock.hpp"
#include "sys/room.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

namespace ipcbus::sys {

namespace {

constexpr unsigned kEntries = 8;
// Not in the headers of Debian 12, which are of Linux 6.1.
constexpr std::uint8_t kFutexWait = 51;         // IORING_OP_FUTEX_WAIT
constexpr std::int32_t kFutexOfU32 = 2;         // FUTEX2_SIZE_U32; shared between processes
constexpr std::uint64_t kAnyBit = 0xffff'ffff;  // FUTEX_BITSET_MATCH_ANY

// user_data: the number of what was armed, and what of it.
constexpr std::uint64_t kKinds = 4;
constexpr std::uint64_t kWait = 0;
constexpr std::uint64_t kTimer = 1;
constexpr std::uint64_t kOther = 2;

std::uint32_t load_acquire(const std::uint32_t* word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // the kernel's side is another language
}

Result<Mapping> map_part(int fd, std::size_t bytes, off_t offset) {
    void* start =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    if (start == MAP_FAILED) {
        return fail_errno("mmap of an io_uring");
    }
    Mapping mapped(start, bytes);
    if (::madvise(start, bytes, MADV_DONTFORK) != 0) {
        return fail_errno("madvise of an io_uring");
    }
    return mapped;
}

/// For what is destroyed after the rings of its thread, or by exit().
thread_local bool rings_are_gone = false;
/// The rings that this thread has made.
struct OwnRings {
    ~OwnRings() { rings_are_gone = true; }
    std::vector<std::shared_ptr<FutexRing>> rings;
};
thread_local OwnRings own;
/// One was made, is kept, and cannot do what it should: not tried again.
thread_local bool rings_are_unfit = false;
/// Rings of any thread that nobody has taken. After a fork in one of several threads too many: then
/// the child may do without io_uring.
std::atomic<int> rings_free{0};

}  // namespace

void FutexRing::GiveBack::operator()(FutexRing* given) {
    rings_free.fetch_add(1, std::memory_order_relaxed);  // relaxed: a bound, no order
    // release: pairs with take(). The last use of it, unless its thread has ended.
    given->taken_.store(false, std::memory_order_release);
    ring.reset();
}

Result<FutexRing::Taken> FutexRing::take(int eventfd) {
    const auto taken = [eventfd](std::shared_ptr<FutexRing> ring) -> Result<Taken> {
        FutexRing* const which = ring.get();
        Taken made(which, GiveBack{std::move(ring)});
        IPCBUS_TRY(which->signal_to(eventfd));
        return made;
    };
    if (rings_are_gone) {
        return taken(IPCBUS_TRY(make()));
    }
    // A forked child has inherited nothing but the list.
    std::erase_if(own.rings, [](const auto& ring) { return !ring->fd_; });
    for (const auto& ring : own.rings) {
        // acquire: pairs with GiveBack. Nobody else sets it.
        if (!ring->taken_.load(std::memory_order_acquire)) {
            ring->taken_.store(true, std::memory_order_relaxed);
            rings_free.fetch_sub(1, std::memory_order_relaxed);
            return taken(ring);
        }
    }
    return taken(IPCBUS_TRY(make()));
}

FutexRing::~FutexRing() {
    if (!taken_.load(std::memory_order_relaxed)) {
        rings_free.fetch_sub(1, std::memory_order_relaxed);
    }
    if (!fd_) {
        // In a forked child: others may have been given these addresses.
        (void)rings_.release();
        (void)entries_.release();
    }
}

Result<std::shared_ptr<FutexRing>> FutexRing::make() {
    if (rings_are_unfit) {
        return fail(EOPNOTSUPP, "io_uring cannot do what it should");
    }
    if (rings_free.load(std::memory_order_relaxed) >= kFreeMax) {
        return fail(EMFILE, "other threads keep enough io_urings that are free");
    }
    if (!rings_are_gone) {
        make_room(own.rings);
    }
    std::shared_ptr<FutexRing> ring(new FutexRing);
    io_uring_params parameters{};
    parameters.flags =
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    const long fd = ::syscall(SYS_io_uring_setup, kEntries, &parameters);
    if (fd < 0) {
        return fail_errno("io_uring_setup");
    }
    ring->fd_.reset(UniqueFd(static_cast<int>(fd)));
    if (!rings_are_gone) {
        own.rings.push_back(ring);  // whatever becomes of it
    }
    rings_are_unfit = true;
    IPCBUS_TRY(ring->expect_futexes());
    IPCBUS_TRY(ring->map(parameters));
    rings_are_unfit = false;
    return ring;
}

Result<void> FutexRing::signal_to(int eventfd) {
    // Of whoever had it before. ENXIO: nobody.
    (void)::syscall(SYS_io_uring_register, fd_.get(), IORING_UNREGISTER_EVENTFD, nullptr, 0);
    if (::syscall(SYS_io_uring_register, fd_.get(), IORING_REGISTER_EVENTFD, &eventfd, 1) != 0) {
        return fail_errno("io_uring_register of an eventfd");
    }
    return {};
}

Result<void> FutexRing::expect_futexes() {
    constexpr unsigned kOperations = 256;
    std::vector<std::uint64_t> room(
        (sizeof(io_uring_probe) + kOperations * sizeof(io_uring_probe_op)) / 8 + 1);
    auto* probe = reinterpret_cast<io_uring_probe*>(room.data());
    if (::syscall(SYS_io_uring_register, fd_.get(), IORING_REGISTER_PROBE, probe, kOperations) !=
        0) {
        return fail_errno("io_uring_register of a probe");
    }
    const auto* operations = reinterpret_cast<const io_uring_probe_op*>(probe + 1);
    if (probe->last_op < kFutexWait ||
        (operations[kFutexWait].flags & IO_URING_OP_SUPPORTED) == 0) {
        return fail(EOPNOTSUPP, "this kernel's io_uring knows no futexes");
    }
    return {};
}

Result<void> FutexRing::map(const io_uring_params& parameters) {
    const auto& sq = parameters.sq_off;
    const auto& cq = parameters.cq_off;
    rings_ = IPCBUS_TRY(
        map_part(fd_.get(),
                 std::max<std::size_t>(sq.array + parameters.sq_entries * sizeof(std::uint32_t),
                                       cq.cqes + parameters.cq_entries * sizeof(io_uring_cqe)),
                 IORING_OFF_SQ_RING));
    entries_ = IPCBUS_TRY(map_part(fd_.get(), parameters.sq_entries * sizeof(io_uring_sqe),
                                   static_cast<off_t>(IORING_OFF_SQES)));
    const auto word = [this](std::uint32_t offset) {
        return reinterpret_cast<std::uint32_t*>(rings_.data() + offset);
    };
    sq_tail_ = word(sq.tail);
    sq_head_ = word(sq.head);
    sq_flags_ = word(sq.flags);
    sq_array_ = word(sq.array);
    sq_mask_ = parameters.sq_entries - 1;
    cq_head_ = word(cq.head);
    cq_tail_ = word(cq.tail);
    completions_ = reinterpret_cast<const io_uring_cqe*>(rings_.data() + cq.cqes);
    cq_mask_ = parameters.cq_entries - 1;
    return {};
}

/// Each is taken by the system call that follows: there is always one free.
io_uring_sqe& FutexRing::next_entry() {
    const std::uint32_t tail = *sq_tail_ + submitted_++;
    sq_array_[tail & sq_mask_] = tail & sq_mask_;
    auto& entry = reinterpret_cast<io_uring_sqe*>(entries_.data())[tail & sq_mask_];
    entry = io_uring_sqe{};
    return entry;
}

/// A timer that ends earlier is left as it is: a look too early costs less than to set the
/// processor's timer for each message.
void FutexRing::add_timeout(std::int64_t timeout_ns) {
    const std::int64_t now_ns = monotonic_ns();
    const std::int64_t at_ns = now_ns + timeout_ns;
    if (now_.timer_ns <= now_ns) {
        now_.timer = 0;  // it has ended, or is about to, though its completion has not been run
    }
    if (now_.timer != 0 && now_.timer_ns <= at_ns) {
        return;
    }
    timeout_.tv_sec = timeout_ns / 1'000'000'000;
    timeout_.tv_nsec = timeout_ns % 1'000'000'000;
    io_uring_sqe& entry = next_entry();
    if (now_.timer != 0) {
        entry.opcode = IORING_OP_TIMEOUT_REMOVE;
        entry.addr = now_.timer * kKinds + kTimer;
        entry.addr2 = reinterpret_cast<std::uint64_t>(&timeout_);
        entry.timeout_flags = IORING_TIMEOUT_UPDATE;
        entry.user_data = now_.number * kKinds + kOther;
    } else {
        entry.opcode = IORING_OP_TIMEOUT;
        entry.addr = reinterpret_cast<std::uint64_t>(&timeout_);
        entry.len = 1;
        entry.user_data = now_.number * kKinds + kTimer;
        now_.timer = now_.number;
    }
    now_.timer_ns = at_ns;
}

Result<void> FutexRing::arm(const std::atomic<std::uint32_t>* word, std::uint32_t expected,
                            std::int64_t timeout_ns) {
    take_completions();
    const State before = now_;
    if (now_.wait_pending) {
        io_uring_sqe& entry = next_entry();
        entry.opcode = IORING_OP_ASYNC_CANCEL;
        entry.addr = now_.number * kKinds + kWait;
        entry.user_data = now_.number * kKinds + kOther;
    }
    now_.number++;
    now_.signalled = false;
    now_.wait_pending = word != nullptr;
    if (word != nullptr) {
        io_uring_sqe& entry = next_entry();
        entry.opcode = kFutexWait;
        entry.fd = kFutexOfU32;
        entry.addr = reinterpret_cast<std::uint64_t>(word);
        entry.addr2 = expected;
        entry.addr3 = kAnyBit;
        entry.user_data = now_.number * kKinds + kWait;
    }
    add_timeout(timeout_ns);
    // What it says is of before: whatever waits to be run is run by this call. Left to the kernel,
    // which clears it when it runs something, a flag that was set too late (signalled()) would stay
    // for as long as nothing comes, and each look would find a signal.
    if ((load_acquire(sq_flags_) & IORING_SQ_TASKRUN) != 0) {
        // acq_rel: the kernel, too, changes its bits one by one, by atomic operations.
        __atomic_fetch_and(sq_flags_, ~IORING_SQ_TASKRUN, __ATOMIC_ACQ_REL);
    }
    // release: the entries. The kernel loads it with acquire.
    __atomic_store_n(sq_tail_, *sq_tail_ + submitted_, __ATOMIC_RELEASE);
    long taken = 0;
    do {
        taken = ::syscall(SYS_io_uring_enter, fd_.get(), submitted_, 0, IORING_ENTER_GETEVENTS,
                          nullptr, 0);
    } while (taken < 0 && errno == EINTR);
    const std::uint32_t submitted = std::exchange(submitted_, 0);
    if (taken < 0) {
        const Error error = fail_errno("io_uring_enter");
        *sq_tail_ = load_acquire(sq_head_);
        now_ = before;
        return error;
    }
    if (taken != submitted) {
        *sq_tail_ = load_acquire(sq_head_);
        now_.timer = 0;  // it was the last of them
        return fail(EAGAIN, "io_uring_enter took less than it was given");
    }
    take_completions();
    return {};
}

bool FutexRing::signalled() {
    take_completions();
    // The flag: something has completed and waits to be run by our next call. The kernel sets it
    // before it signals the eventfd. (It adds what is to be run first: our own call may run that
    // before the flag is set, which then says so once too often, until arm() clears it.)
    return now_.signalled || (load_acquire(sq_flags_) & IORING_SQ_TASKRUN) != 0;
}

void FutexRing::take_completions() {
    std::uint32_t head = *cq_head_;
    const std::uint32_t tail = load_acquire(cq_tail_);
    for (; head != tail; head++) {
        const std::uint64_t number = completions_[head & cq_mask_].user_data / kKinds;
        const std::uint64_t kind = completions_[head & cq_mask_].user_data % kKinds;
        if (kind == kTimer && number == now_.timer) {
            now_.timer = 0;
            now_.signalled = true;
        } else if (kind == kWait && number == now_.number) {
            now_.wait_pending = false;
            now_.signalled = true;
        }
    }
    __atomic_store_n(cq_head_, head, __ATOMIC_RELEASE);
}

}  // namespace ipcbus::sys
