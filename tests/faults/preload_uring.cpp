// SPDX-License-Identifier: Apache-2.0
// The io_uring part of the preloaded library. liburing's inline functions work on the queues
// themselves, so an operation is made to fail where it must come by: when it is submitted, it is
// turned into one that does nothing, and its completion gets the error when it is fetched. The
// daemon sees exactly what the kernel would have said. In the daemon's process, its one thread.
#include "preload.hpp"

#include <liburing.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

namespace ipcbus::test {

namespace {

/// Results that completions still to come are to have, by their user data.
std::unordered_map<std::uint64_t, int>& results_to_come() {
    static std::unordered_map<std::uint64_t, int> results;
    return results;
}

/// Of the submission queue, as it was made.
unsigned entries_made = 0;

/// Not in the headers of Debian 12: IORING_OP_FUTEX_WAIT, of Linux 6.7.
constexpr unsigned kFutexWait = 51;

/// The rule for that operation; false: there is none, because it cannot fail in a way that matters.
bool call_of(const io_uring_sqe& sqe, Call& ret_call) {
    switch (sqe.opcode) {
    case IORING_OP_ACCEPT:
        ret_call = Call::op_accept;
        return true;
    case IORING_OP_CLOSE:
        ret_call = Call::op_close;
        return true;
    case IORING_OP_FALLOCATE:
        ret_call = Call::op_fallocate;
        return true;
    case IORING_OP_POLL_ADD:
        ret_call = Call::op_poll;
        return true;
    case IORING_OP_RECV:
        ret_call = Call::op_recv;
        return true;
    case IORING_OP_SENDMSG:
        ret_call = Call::op_sendmsg;
        return true;
    case IORING_OP_TIMEOUT:
        ret_call = Call::op_timeout;
        return true;
    case kFutexWait:
        ret_call = Call::op_futex;
        return true;
    case IORING_OP_ASYNC_CANCEL:
        // Needs nothing, so only says whether it found its target; the daemon does not ask.
        return false;
    default:
        fault_block()->unknown_operations.fetch_or(std::uint64_t{1} << (sqe.opcode % 64));
        return false;
    }
}

bool is_on_socket(Call call) { return call == Call::op_recv || call == Call::op_sendmsg; }

/// The kernel says that to descriptors only.
bool cannot_say_it(const io_uring_sqe& sqe, Call call) {
    return call == Call::op_sendmsg && (*fault_block())[call].error.load() == ETOOMANYREFS &&
           reinterpret_cast<const msghdr*>(sqe.addr)->msg_controllen == 0;
}

void look_at(io_uring_sqe& sqe) {
    Call call{};
    if (!call_of(sqe, call) || cannot_say_it(sqe, call) ||
        !(is_on_socket(call) ? fails_on(call, sqe.fd) : fails(call))) {
        return;
    }
    const int error = errno;
    if (error == 0) {
        if (call == Call::op_sendmsg) {
            auto* const message = reinterpret_cast<msghdr*>(sqe.addr);
            message->msg_iov->iov_len = std::min<std::size_t>(message->msg_iov->iov_len, 1);
        }
        return;
    }
    results_to_come()[sqe.user_data] = -error;
    if (call == Call::op_close) {
        return;  // it closes whatever it says
    }
    const std::uint64_t user_data = sqe.user_data;
    std::memset(&sqe, 0, sizeof sqe);
    sqe.opcode = IORING_OP_NOP;
    sqe.fd = -1;
    sqe.user_data = user_data;
}

void look_at_new(io_uring& ring) {
    if (fault_block() == nullptr) {
        return;
    }
    for (unsigned i = ring.sq.sqe_head; i != ring.sq.sqe_tail; i++) {
        look_at(ring.sq.sqes[i & ring.sq.ring_mask]);
    }
}

/// io_uring_get_sqe() is inline: it compares with this. None is free until we are called again.
void set_room(io_uring& ring) { ring.sq.ring_entries = fails(Call::get_sqe) ? 0 : entries_made; }

}  // namespace

// ------------------------------------------------------------------------------------ its opening

IPCBUS_FAULT_WRAP(int, io_uring_queue_init_params,
                  (unsigned entries, io_uring* ring, io_uring_params* parameters)) {
    IPCBUS_FAULT_NEXT(io_uring_queue_init_params, int(unsigned, io_uring*, io_uring_params*));
    if (fails(Call::io_uring_queue_init)) {
        return -errno;
    }
    const FaultBlock* const block = fault_block();
    if (block != nullptr && block->submission_entries.load() != 0) {
        entries = block->submission_entries.load();
    }
    if (block != nullptr && block->completion_entries.load() != 0) {
        parameters->cq_entries = block->completion_entries.load();
    }
    const int result = next(entries, ring, parameters);
    if (result == 0) {
        entries_made = ring->sq.ring_entries;
    }
    return result;
}

IPCBUS_FAULT_WRAP(io_uring_probe*, io_uring_get_probe_ring, (io_uring * ring)) {
    IPCBUS_FAULT_NEXT(io_uring_get_probe_ring, io_uring_probe * (io_uring*));
    if (fails(Call::io_uring_probe)) {
        return nullptr;
    }
    io_uring_probe* const probe = next(ring);
    if (fails(Call::probe_futex) && probe != nullptr && probe->ops_len > kFutexWait) {
        probe->ops[kFutexWait].flags &= static_cast<__u16>(~IO_URING_OP_SUPPORTED);
    }
    return probe;
}

IPCBUS_FAULT_WRAP(int, io_uring_register_buf_ring,
                  (io_uring * ring, io_uring_buf_reg* buffers, unsigned flags)) {
    IPCBUS_FAULT_NEXT(io_uring_register_buf_ring, int(io_uring*, io_uring_buf_reg*, unsigned));
    return fails(Call::io_uring_register_buf) ? -errno : next(ring, buffers, flags);
}

IPCBUS_FAULT_WRAP(int, io_uring_register_iowq_max_workers, (io_uring * ring, unsigned* values)) {
    IPCBUS_FAULT_NEXT(io_uring_register_iowq_max_workers, int(io_uring*, unsigned*));
    return fails(Call::io_uring_register_work) ? -errno : next(ring, values);
}

// --------------------------------------------------------------------------------------- its use

IPCBUS_FAULT_WRAP(int, io_uring_submit, (io_uring * ring)) {
    IPCBUS_FAULT_NEXT(io_uring_submit, int(io_uring*));
    set_room(*ring);
    if (fails(Call::io_uring_submit)) {
        return -errno;
    }
    look_at_new(*ring);
    return next(ring);
}

IPCBUS_FAULT_WRAP(int, io_uring_submit_and_wait, (io_uring * ring, unsigned count)) {
    IPCBUS_FAULT_NEXT(io_uring_submit_and_wait, int(io_uring*, unsigned));
    count_turn();
    int result = 0;
    if (fails(Call::io_uring_submit_wait)) {
        result = -errno;
    } else {
        look_at_new(*ring);
        result = next(ring, count);
    }
    set_room(*ring);
    return result;
}

IPCBUS_FAULT_WRAP(int, io_uring_submit_and_get_events, (io_uring * ring)) {
    IPCBUS_FAULT_NEXT(io_uring_submit_and_get_events, int(io_uring*));
    count_turn();
    int result = 0;
    if (fails(Call::io_uring_submit_get)) {
        result = -errno;
    } else {
        look_at_new(*ring);
        result = next(ring);
    }
    set_room(*ring);
    return result;
}

/// It cannot fail; made to, it finds nothing, as if what has completed were a moment late.
IPCBUS_FAULT_WRAP(unsigned, io_uring_peek_batch_cqe,
                  (io_uring * ring, io_uring_cqe** cqes, unsigned count)) {
    IPCBUS_FAULT_NEXT(io_uring_peek_batch_cqe, unsigned(io_uring*, io_uring_cqe**, unsigned));
    if (fault_block() == nullptr) {
        return next(ring, cqes, count);
    }
    if (fails(Call::io_uring_peek_batch)) {
        return 0;
    }
    if ((__atomic_load_n(ring->sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) != 0) {
        fault_block()->overflows.fetch_add(1);
    }
    const unsigned found = next(ring, cqes, count);
    for (unsigned i = 0; i < found; i++) {
        const auto result = results_to_come().find(cqes[i]->user_data);
        if (cqes[i]->user_data != 0 && result != results_to_come().end()) {
            cqes[i]->res = result->second;
            results_to_come().erase(result);
        }
    }
    return found;
}

}  // namespace ipcbus::test
