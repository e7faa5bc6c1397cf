// SPDX-License-Identifier: Apache-2.0
// Waiting for the death of processes that hold rings. See lingering.hpp.
#include "lingering.hpp"

#include <poll.h>

namespace ipcbus::daemon {

namespace {

constexpr std::int64_t kAgainNs = 1'000'000'000;

}  // namespace

Lingering::Process::Process(Lingering& all, EventLoop& loop, pid_t process_pid, uid_t process_uid,
                            SharedFd process_pidfd)
    : pid(process_pid),
      uid(process_uid),
      pidfd(std::move(process_pidfd)),
      scope(loop),
      death(scope,
            [this, &all](int error) {
                if (error == 0) {
                    all.remove(*this);
                } else {
                    again.start(kAgainNs);  // the kernel is out of memory: that says nothing of it
                }
            }),
      again(scope, [this] { watch(); }) {}

void Lingering::Process::watch() {
    if (pidfd) {
        death.start(pidfd->get(), POLLIN);
    }
}

void Lingering::add(pid_t pid, uid_t uid, SharedFd pidfd, Charge connection,
                    const std::vector<SharedCharge>& rings) {
    // As long as a record's process has not been seen to die, its pid is not another process's.
    Process* process = nullptr;
    for (Process& known : processes_) {
        if (pid > 0 && known.pid == pid && !known.over) {
            process = &known;
        }
    }
    if (process == nullptr) {
        process = &processes_.emplace_back(*this, loop_, pid, uid, std::move(pidfd));
        process->connection = std::move(connection);
        process->watch();
    }
    process->rings.insert(rings.begin(), rings.end());
}

void Lingering::take_over(const SharedCharge& ring) {
    uid_t holder = ring->uid();
    for (const Process& process : processes_) {
        if (process.rings.count(ring) != 0) {
            if (process.uid == ring->uid()) {
                return;  // who paid so far has it himself
            }
            holder = process.uid;
        }
    }
    ring->move_to(holder);
}

void Lingering::remove(Process& process) {
    if (process.over) {
        return;
    }
    process.over = true;
    const std::set<SharedCharge> rings = std::exchange(process.rings, {});
    for (const SharedCharge& ring : rings) {
        take_over(ring);
    }
    process.connection.reset();
    process.scope.close([this, &process] {
        processes_.remove_if([&](const Process& other) { return &other == &process; });
    });
}

void Lingering::close() {
    for (Process& process : processes_) {
        remove(process);
    }
}

}  // namespace ipcbus::daemon
