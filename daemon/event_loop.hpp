// SPDX-License-Identifier: Apache-2.0
// The daemon's one io_uring and the loop around it; knows nothing of the bus. The kernel writes
// into operations long after the call that began them, so their lifetime is the whole point here:
//   Operation       one request to the kernel, embedded in its owner; its address is the user_data
//   OperationScope  all operations of one owner (a session, a listener); says when the owner may go
//   EventLoop       submits, reaps, and only then calls back: a callback never runs inside another
// Owned by the broker; everything here belongs to the daemon's one thread.
//
// How an owner dies: it declares `OperationScope scope_` BEFORE its operations, and calls
// scope_.close(callback). From then on none of its callbacks is called; once the kernel has let go
// of its last operation, `callback` runs at the end of that turn and may delete the owner. (Never
// delete an owner inside a callback of its own operation.) A destructor that finds an operation
// still submitted cancels it and waits for it: safe, for start-up failures, but it blocks.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

struct io_uring_sqe;

namespace ipcbus::daemon {

class EventLoop;
class OperationScope;

/// A descriptor that several owners keep open: an operation in flight holds one, so that the number
/// cannot come to mean another file before the kernel has looked at it.
using SharedFd = std::shared_ptr<const sys::UniqueFd>;

inline SharedFd share(sys::UniqueFd fd) {
    return std::make_shared<const sys::UniqueFd>(std::move(fd));
}

/// One request to the kernel. The kinds are in operations.hpp.
class Operation {
public:
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

    /// True exactly while the kernel may still write to this object, or a completion of it waits
    /// to be delivered: it must not be destroyed, moved or started again.
    [[nodiscard]] bool submitted() const { return submitted_; }

    /// Asks the kernel to end it. Its callback still comes, with ECANCELED if the cancellation won.
    /// Without effect if nothing is submitted.
    void cancel();

protected:
    explicit Operation(OperationScope& scope);
    virtual ~Operation();

    /// Fills the request in; called again when a multishot request has to be rearmed.
    virtual void prepare(io_uring_sqe& sqe) = 0;
    /// One completion. `more`: others will follow, the operation is still submitted.
    virtual void complete(int result, unsigned flags, bool more) = 0;
    /// A completion that nobody wants any more: closes or gives back what it brought.
    virtual void discard(int result, unsigned flags);

    /// Hands it to the kernel; must not be submitted. A closed scope ignores it.
    void submit();
    /// For the destructors of the kinds: waits until the kernel has let go.
    void abandon();
    [[nodiscard]] bool cancel_requested() const { return cancel_requested_; }
    [[nodiscard]] OperationScope& scope() const { return scope_; }
    [[nodiscard]] EventLoop& loop() const;

private:
    friend class EventLoop;
    friend class OperationScope;

    OperationScope& scope_;
    bool submitted_ = false;
    bool cancel_requested_ = false;
    /// Not yet handed to the kernel: waits in the loop's backlog for room.
    bool in_backlog_ = false;
};

/// The operations of one owner. Declare it before them.
class OperationScope {
public:
    explicit OperationScope(EventLoop& loop) : loop_(loop) {}
    ~OperationScope();
    OperationScope(const OperationScope&) = delete;
    OperationScope& operator=(const OperationScope&) = delete;

    /// Cancels every operation. Their callbacks are not called any more, new ones are not
    /// submitted, and `closed` runs at the end of the turn in which the last one completed (of this
    /// turn, if none is submitted). May be called from a callback. A second call is ignored.
    void close(std::function<void()> closed);
    [[nodiscard]] bool closing() const { return closing_; }
    [[nodiscard]] unsigned submitted_count() const { return submitted_count_; }
    [[nodiscard]] EventLoop& loop() const { return loop_; }

private:
    friend class Operation;
    friend class EventLoop;

    void finished_one();

    EventLoop& loop_;
    std::vector<Operation*> operations_;
    std::function<void()> closed_;
    unsigned submitted_count_ = 0;
    bool closing_ = false;
};

/// The buffers that a multishot receive is served from.
enum class RecvBuffers : std::uint8_t { small, bulk };

struct EventLoopOptions {
    unsigned submission_entries = 256;
    unsigned completion_entries = 2048;
    /// Provided buffers for all multishot receives together: a power of two.
    unsigned recv_buffer_count = 128;
    unsigned recv_buffer_bytes = 4096;
    /// And for those of connections that messages come by.
    unsigned bulk_buffer_count = 32;
    unsigned bulk_buffer_bytes = 32768;
};

class EventLoop {
public:
    /// Fails with ONE clear line if the kernel, a sysctl or a container refuses io_uring.
    [[nodiscard]] static sys::Result<std::unique_ptr<EventLoop>>
    create(EventLoopOptions options = {});
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    /// Runs turns until stop(). A turn: submit and wait, reap, call back, run what was deferred.
    [[nodiscard]] sys::Result<void> run();
    enum class Wait { block, poll };
    [[nodiscard]] sys::Result<void> run_once(Wait wait = Wait::block);
    /// Runs turns until no operation is submitted anywhere: after every scope was closed.
    [[nodiscard]] sys::Result<void> run_until_idle();
    /// Ends run() after this turn.
    void stop() { stop_requested_ = true; }

    /// Runs `callback` at the end of this turn (of the next one, if called between turns).
    void defer(std::function<void()> callback);
    /// The same, forgotten with `scope`.
    void defer(const OperationScope& scope, std::function<void()> callback) {
        defer_for(&scope, std::move(callback));
    }
    /// Closes on a kernel worker: for the last descriptor of a large ring, whose pages are freed
    /// then (40 ms per 256 MiB).
    void close_async(sys::UniqueFd fd);
    /// Cancels every operation that uses this descriptor; each completes with ECANCELED.
    void cancel_fd(int fd);

    /// Whether this kernel's io_uring knows FutexOperation (Linux 6.7).
    [[nodiscard]] bool can_wait_for_futex() const;

    /// Turns taken since the start: an idle daemon takes none.
    [[nodiscard]] std::uint64_t turns() const { return turns_; }
    [[nodiscard]] std::uint64_t submitted_count() const { return submitted_count_; }

private:
    friend class Operation;
    friend class OperationScope;
    friend class RecvOperation;

    struct Ring;
    struct Completion {
        Operation* operation;
        int result;
        unsigned flags;
    };
    /// `scope`: whose it is, so that it can be forgotten with its owner; null for defer().
    struct Deferred {
        const OperationScope* scope;
        std::function<void()> callback;
    };
    class DetachedClose;
    /// What could not be given to the kernel yet. `operation` is null for a cancellation by fd.
    struct Backlogged {
        Operation* operation;
        bool cancellation;
        int fd;
    };

    explicit EventLoop(std::unique_ptr<Ring> ring);
    void submit(Operation& operation);
    void cancel(Operation& operation);
    void wait_for(Operation& operation);
    void place(const Backlogged& wanted);
    bool place_now(const Backlogged& wanted);
    void pump_backlog();
    io_uring_sqe* next_sqe();
    sys::Result<void> enter(Wait wait);
    void reap();
    void deliver(const Completion& completion);
    void finished(Operation& operation);
    void defer_for(const OperationScope* scope, std::function<void()> callback);
    void run_deferred();
    void forget_deferred(const OperationScope& scope);
    [[nodiscard]] std::span<const std::byte> recv_buffer(RecvBuffers from, unsigned flags,
                                                         int bytes) const;
    void return_recv_buffer(RecvBuffers from, unsigned flags);

    std::unique_ptr<Ring> ring_;
    std::vector<Completion> completions_;
    std::vector<Backlogged> backlog_;
    std::vector<Deferred> deferred_;
    std::unique_ptr<OperationScope> own_scope_;
    std::uint64_t turns_ = 0;
    std::uint64_t submitted_count_ = 0;
    bool stop_requested_ = false;
};

}  // namespace ipcbus::daemon
