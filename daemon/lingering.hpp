// SPDX-License-Identifier: Apache-2.0
// Lingering: processes whose connection has ended while they live, and which may still map rings.
// Those rings stay charged until the process is dead, which its pidfd tells; so closing a socket is
// no way to hold memory that nobody pays for. One record a process, which counts as a client of
// its uid as far as its limit allows. Owned by the bus, the daemon's one thread.
#pragma once

#include "operations.hpp"
#include "quota.hpp"

#include <sys/types.h>

#include <list>
#include <set>
#include <vector>

namespace ipcbus::daemon {

class Lingering {
public:
    explicit Lingering(EventLoop& loop) : loop_(loop) {}

    /// `pid` 0: not known here, a record of its own. `pidfd` null: it is never known to be dead.
    /// `connection` is what the process counts as from now on, if it has no record yet.
    void add(pid_t pid, uid_t uid, SharedFd pidfd, Charge connection,
             const std::vector<SharedCharge>& rings);
    /// Nobody on the bus has that ring any more: those who are here and have it pay.
    void take_over(const SharedCharge& ring);
    [[nodiscard]] std::size_t size() const { return processes_.size(); }
    /// Lets go of everything; the loop becomes idle.
    void close();

private:
    struct Process {
        Process(Lingering& all, EventLoop& loop, pid_t process_pid, uid_t process_uid,
                SharedFd process_pidfd);
        void watch();

        pid_t pid;
        uid_t uid;
        SharedFd pidfd;
        Charge connection;
        std::set<SharedCharge> rings;
        bool over = false;
        OperationScope scope;
        PollOperation death;
        Timer again;
    };

    void remove(Process& process);

    EventLoop& loop_;
    std::list<Process> processes_;
};

}  // namespace ipcbus::daemon
