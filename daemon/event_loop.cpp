// SPDX-License-Identifier: Apache-2.0
// The io_uring loop: set-up and refusals, the submission queue with its backlog, reaping and
// delivery, deferred callbacks, lifetimes. The daemon's one thread.
//
// Nothing is lost when a queue is full. Submission: a full queue is handed to the kernel at once;
// what the kernel will not take yet (EBUSY, EAGAIN) waits in backlog_, in order. Completion: the
// kernel keeps what does not fit (IORING_FEAT_NODROP) and reap() fetches it.
#include "event_loop.hpp"

#include "uring.hpp"

#include <liburing.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace ipcbus::daemon {

namespace {

/// Completions taken in one turn: a flood must not keep the loop from its callbacks.
constexpr std::size_t kReapedPerTurnMax = 4096;

}  // namespace

/// A descriptor on its way out. Owns itself: nobody waits for a close.
class EventLoop::DetachedClose final : public Operation {
public:
    DetachedClose(OperationScope& scope, sys::UniqueFd fd) : Operation(scope), fd_(std::move(fd)) {
        submit();
    }
    ~DetachedClose() override { abandon(); }

private:
    void prepare(io_uring_sqe& sqe) override {
        io_uring_prep_close(&sqe, fd_.get());
        sqe.flags |= IOSQE_ASYNC;
    }
    void complete(int result, unsigned, bool) override {
        // Cancelled before it ran: the descriptor is still ours, and its destructor closes it.
        if (result != -ECANCELED) {
            (void)fd_.release();
        }
        loop().defer_for(&scope(), [this] { delete this; });
    }

    sys::UniqueFd fd_;
};

// --- Operation and OperationScope ---------------------------------------------------------------

Operation::Operation(OperationScope& scope) : scope_(scope) { scope_.operations_.push_back(this); }

Operation::~Operation() {
    IPCBUS_ASSERT(!submitted_);
    auto& all = scope_.operations_;
    const auto self = std::find(all.begin(), all.end(), this);
    IPCBUS_ASSERT(self != all.end());
    *self = all.back();
    all.pop_back();
}

EventLoop& Operation::loop() const { return scope_.loop_; }

void Operation::discard(int, unsigned) {}

void Operation::submit() {
    if (scope_.closing_) {
        return;
    }
    IPCBUS_ASSERT(!submitted_);
    loop().submit(*this);
}

void Operation::cancel() {
    if (submitted_) {
        loop().cancel(*this);
    } else {
        cancel_requested_ = true;  // called from its own callback: keeps a multishot from rearming
    }
}

void Operation::abandon() {
    if (submitted_) {
        loop().wait_for(*this);
    }
}

OperationScope::~OperationScope() {
    IPCBUS_ASSERT(operations_.empty());
    loop_.forget_deferred(*this);
}

void OperationScope::close(std::function<void()> closed) {
    if (closing_) {
        return;
    }
    closing_ = true;
    closed_ = std::move(closed);
    for (Operation* operation : operations_) {
        operation->cancel();
    }
    finished_one();
}

void OperationScope::finished_one() {
    if (closing_ && submitted_count_ == 0 && closed_) {
        loop_.defer_for(this, std::exchange(closed_, nullptr));
    }
}

// --- life of the loop ---------------------------------------------------------------------------

EventLoop::EventLoop(std::unique_ptr<Ring> ring)
    : ring_(std::move(ring)), own_scope_(std::make_unique<OperationScope>(*this)) {}

sys::Result<std::unique_ptr<EventLoop>> EventLoop::create(EventLoopOptions options) {
    auto ring = std::make_unique<Ring>();
    IPCBUS_TRY(ring->open(options));
    return std::unique_ptr<EventLoop>(new EventLoop(std::move(ring)));
}

EventLoop::~EventLoop() {
    // Every owner has gone by now; only closes of descriptors may still be on their way. What is
    // there already comes first: wait_for() may have brought it, and the kernel will not again.
    for (;;) {
        for (const Completion& completion : std::exchange(completions_, {})) {
            deliver(completion);
        }
        if (own_scope_->submitted_count_ == 0) {
            break;
        }
        pump_backlog();
        IPCBUS_ASSERT(enter(Wait::block).ok());
        reap();
    }
    run_deferred();
    IPCBUS_ASSERT(submitted_count_ == 0);
}

sys::Result<void> EventLoop::run() {
    stop_requested_ = false;
    while (!stop_requested_) {
        IPCBUS_TRY(run_once(Wait::block));
    }
    return {};
}

sys::Result<void> EventLoop::run_until_idle() {
    while (submitted_count_ > 0 || !deferred_.empty()) {
        IPCBUS_TRY(run_once(Wait::block));
    }
    return {};
}

sys::Result<void> EventLoop::run_once(Wait wait) {
    pump_backlog();
    if (!deferred_.empty() || !completions_.empty() || !backlog_.empty()) {
        wait = Wait::poll;
    }
    IPCBUS_TRY(enter(wait));
    ++turns_;
    reap();
    // By index, and only what is there now: callbacks may add to the list (a cancellation in the
    // backlog completes at once), and wait_for() takes entries out by setting them to null.
    const std::size_t count = completions_.size();
    for (std::size_t i = 0; i < count; ++i) {
        const Completion completion = completions_[i];
        completions_[i].operation = nullptr;
        deliver(completion);
    }
    completions_.erase(completions_.begin(),
                       completions_.begin() + static_cast<std::ptrdiff_t>(count));
    run_deferred();
    return {};
}

// --- deferred callbacks -------------------------------------------------------------------------

void EventLoop::defer(std::function<void()> callback) { defer_for(nullptr, std::move(callback)); }

void EventLoop::defer_for(const OperationScope* scope, std::function<void()> callback) {
    deferred_.push_back(Deferred{scope, std::move(callback)});
}

void EventLoop::run_deferred() {
    const std::size_t count = deferred_.size();
    for (std::size_t i = 0; i < count; ++i) {
        const auto callback = std::exchange(deferred_[i].callback, nullptr);
        if (callback) {
            callback();
        }
    }
    deferred_.erase(deferred_.begin(), deferred_.begin() + static_cast<std::ptrdiff_t>(count));
}

void EventLoop::forget_deferred(const OperationScope& scope) {
    for (Deferred& deferred : deferred_) {
        if (deferred.scope == &scope) {
            deferred.callback = nullptr;
        }
    }
}

// --- submitting ---------------------------------------------------------------------------------

bool EventLoop::can_wait_for_futex() const { return ring_->futex_wait; }

void EventLoop::submit(Operation& operation) {
    operation.submitted_ = true;
    operation.cancel_requested_ = false;
    ++submitted_count_;
    ++operation.scope_.submitted_count_;
    place(Backlogged{&operation, false, -1});
}

void EventLoop::cancel(Operation& operation) {
    if (operation.cancel_requested_) {
        return;
    }
    operation.cancel_requested_ = true;
    if (operation.in_backlog_) {  // the kernel has never seen it
        std::erase_if(backlog_, [&](const Backlogged& b) { return b.operation == &operation; });
        operation.in_backlog_ = false;
        completions_.push_back(Completion{&operation, -ECANCELED, 0});
        return;
    }
    place(Backlogged{&operation, true, -1});
}

void EventLoop::cancel_fd(int fd) { place(Backlogged{nullptr, true, fd}); }

void EventLoop::close_async(sys::UniqueFd fd) {
    if (fd.valid()) {
        (void)new DetachedClose(*own_scope_, std::move(fd));  // deletes itself when done
    }
}

void EventLoop::place(const Backlogged& wanted) {
    if (backlog_.empty() && place_now(wanted)) {
        return;
    }
    backlog_.push_back(wanted);
    if (wanted.operation != nullptr && !wanted.cancellation) {
        wanted.operation->in_backlog_ = true;
    }
}

bool EventLoop::place_now(const Backlogged& wanted) {
    io_uring_sqe* const sqe = next_sqe();
    if (sqe == nullptr) {
        return false;
    }
    if (!wanted.cancellation) {
        wanted.operation->prepare(*sqe);
        io_uring_sqe_set_data(sqe, wanted.operation);
        return true;
    }
    // Cancellations carry no operation: their own completions are dropped in reap().
    if (wanted.operation != nullptr) {
        io_uring_prep_cancel(sqe, wanted.operation, 0);
    } else {
        io_uring_prep_cancel_fd(sqe, wanted.fd, IORING_ASYNC_CANCEL_ALL);
    }
    io_uring_sqe_set_data(sqe, nullptr);
    return true;
}

void EventLoop::pump_backlog() {
    std::size_t placed = 0;
    while (placed < backlog_.size() && place_now(backlog_[placed])) {
        if (Operation* const operation = backlog_[placed].operation) {
            operation->in_backlog_ = false;
        }
        ++placed;
    }
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<std::ptrdiff_t>(placed));
}

io_uring_sqe* EventLoop::next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_->uring);
    if (sqe == nullptr) {
        (void)io_uring_submit(&ring_->uring);  // what it does not take, it takes later
        sqe = io_uring_get_sqe(&ring_->uring);
    }
    return sqe;
}

sys::Result<void> EventLoop::enter(Wait wait) {
    const int result = wait == Wait::block ? io_uring_submit_and_wait(&ring_->uring, 1)
                                           : io_uring_submit_and_get_events(&ring_->uring);
    switch (result) {
    case -EAGAIN:
        // The kernel is out of memory for requests. Nothing will wake us, so look again soon.
        (void)::poll(nullptr, 0, 1);
        return {};
    case -EINTR:
    case -EBUSY:  // completions first
    case -ETIME:
        return {};
    default:
        break;
    }
    if (result < 0) {
        errno = -result;
        return sys::fail_errno("io_uring_enter");
    }
    return {};
}

// --- reaping ------------------------------------------------------------------------------------

void EventLoop::reap() {
    std::array<io_uring_cqe*, 64> cqes;
    std::size_t reaped = 0;
    while (reaped < kReapedPerTurnMax) {
        const unsigned count = io_uring_peek_batch_cqe(&ring_->uring, cqes.data(), cqes.size());
        if (count == 0) {
            return;
        }
        for (unsigned i = 0; i < count; ++i) {
            if (void* const data = io_uring_cqe_get_data(cqes[i])) {
                completions_.push_back(
                    Completion{static_cast<Operation*>(data), cqes[i]->res, cqes[i]->flags});
            }
        }
        io_uring_cq_advance(&ring_->uring, count);
        reaped += count;
    }
}

void EventLoop::deliver(const Completion& completion) {
    if (completion.operation == nullptr) {
        return;
    }
    Operation& operation = *completion.operation;
    OperationScope& scope = operation.scope_;
    const bool more = (completion.flags & IORING_CQE_F_MORE) != 0;
    if (!more) {
        finished(operation);
    }
    if (scope.closing_) {
        operation.discard(completion.result, completion.flags);
    } else {
        operation.complete(completion.result, completion.flags, more);
    }
    scope.finished_one();
}

void EventLoop::finished(Operation& operation) {
    operation.submitted_ = false;
    --submitted_count_;
    --operation.scope_.submitted_count_;
    // A cancellation that came too late must not hit whatever gets this address next.
    std::erase_if(backlog_, [&](const Backlogged& b) { return b.operation == &operation; });
}

void EventLoop::wait_for(Operation& operation) {
    cancel(operation);
    while (true) {
        for (std::size_t i = 0; i < completions_.size() && operation.submitted_; ++i) {
            if (completions_[i].operation != &operation) {
                continue;
            }
            const Completion completion = completions_[i];
            completions_[i].operation = nullptr;
            operation.discard(completion.result, completion.flags);
            if ((completion.flags & IORING_CQE_F_MORE) == 0) {
                finished(operation);
            }
        }
        if (!operation.submitted_) {
            operation.scope_.finished_one();
            return;
        }
        pump_backlog();
        // Going on would let the kernel write into freed memory.
        IPCBUS_ASSERT(enter(Wait::block).ok());
        reap();
    }
}

std::span<const std::byte> EventLoop::recv_buffer(RecvBuffers from, unsigned flags,
                                                  int bytes) const {
    return ring_->buffers(from).get(flags >> IORING_CQE_BUFFER_SHIFT, bytes);
}

void EventLoop::return_recv_buffer(RecvBuffers from, unsigned flags) {
    if ((flags & IORING_CQE_F_BUFFER) != 0) {
        ring_->buffers(from).give_back(flags >> IORING_CQE_BUFFER_SHIFT);
    }
}

}  // namespace ipcbus::daemon
