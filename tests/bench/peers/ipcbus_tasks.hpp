// SPDX-License-Identifier: Apache-2.0
// The workloads that only ipcbus has, and the limits they are compared with: several readers, many
// rings, waiting that costs nothing. Tasks over a daemon that was started before the fork; each
// makes its handles in open(), in the process that uses them.
#pragma once

#include "peers/task.hpp"

#include <sys/mman.h>

#include <atomic>
#include <new>

namespace ipcbus::bench {

/// A page that the processes of a task share, for what they tell each other beside the messages.
template <class Page>
class Shared {
public:
    Shared() {
        void* memory = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (memory == MAP_FAILED) {
            fail("task", "no memory");
        }
        page_ = new (memory) Page();
    }
    Page* operator->() const { return page_; }

private:
    Page* page_;
};

/// The writer and one reader in step: the writer says go, the reader done.
struct Steps {
    alignas(128) std::atomic<std::uint64_t> go{0};
    alignas(128) std::atomic<std::uint64_t> done{0};
    std::atomic<std::uint64_t> result{0};
};

/// Spins until `word` is at least `value`.
void wait_until(const std::atomic<std::uint64_t>& word, std::uint64_t value);

/// Adds the tasks that belong to this peer: ipcbus's own, or those of a limit (by its name).
void add_ipcbus_tasks(Peer& peer, Tasks& tasks);
/// Those of them that wake many sleeping readers.
void add_wake_tasks(Peer& peer, Tasks& tasks);

}  // namespace ipcbus::bench
