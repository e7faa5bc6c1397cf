// SPDX-License-Identifier: Apache-2.0
// recvmsg and sendmsg with SCM_RIGHTS. See fd_passing.hpp.
#include "sys/fd_passing.hpp"

#include <cstring>
#include <sys/socket.h>
#include <sys/uio.h>

namespace ipcbus::sys {

namespace {

/// The kernel's own bound for one message (SCM_MAX_FD). With room for that many, a truncated
/// control message can only mean that this process has no descriptors left.
constexpr std::size_t kFdsPerMessageMax = 253;

struct ControlBuffer {
    alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * kFdsPerMessageMax)];
};

/// Takes ownership first and checks afterwards: what the kernel has installed must be closed on
/// every path.
void take_fds(msghdr& message, std::vector<UniqueFd>& fds) {
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS ||
            part->cmsg_len < CMSG_LEN(0)) {
            continue;
        }
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            fds.emplace_back(fd);
        }
    }
}

}  // namespace

Result<std::size_t> receive_with_fds(int socket, std::span<std::byte> into,
                                     std::vector<UniqueFd>& fds, bool dont_wait) {
    IPCBUS_ASSERT(!into.empty());  // else 0 would not mean "closed"
    ControlBuffer control;
    iovec part{into.data(), into.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    const ssize_t got =
        ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (dont_wait ? MSG_DONTWAIT : 0));
    if (got < 0) {
        return fail_errno("recvmsg");
    }
    const std::size_t before = fds.size();
    take_fds(message, fds);
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
        fds.erase(fds.begin() + static_cast<std::ptrdiff_t>(before), fds.end());
        return fail(EMFILE,
                    "descriptors that were sent to this process were lost: it has too "
                    "many open already (raise its RLIMIT_NOFILE)");
    }
    return static_cast<std::size_t>(got);
}

Result<std::size_t> send_with_fds(int socket, std::span<const std::byte> bytes,
                                  std::span<const int> fds) {
    IPCBUS_ASSERT(!bytes.empty());  // descriptors travel with a byte
    IPCBUS_ASSERT(fds.size() <= kFdsPerMessageMax);
    ControlBuffer control{};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0) {
        return fail_errno("sendmsg");
    }
    return static_cast<std::size_t>(sent);
}

}  // namespace ipcbus::sys
