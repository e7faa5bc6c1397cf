// SPDX-License-Identifier: Apache-2.0
// Set: several subscribers of one client that one thread waits for at once: one waiter for all
// their attachments. Used by one thread at a time.
#pragma once

#include "subscriber.hpp"

namespace ipcbus::client {

class Set final : private protocol::Elsewhere {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Set>> create(Bus& bus);
    ~Set();
    Set(const Set&) = delete;
    Set& operator=(const Set&) = delete;

    int add(Subscriber& subscriber);
    int remove(Subscriber& subscriber);
    int wait(i64 timeout_ns, Subscriber** ret_subscriber);
    /// The descriptor for event loops (readiness.hpp), made by the first call.
    int fd();
    /// Before anything is done with what it waits for.
    void disarm();
    /// Nothing can be waited for: the descriptor is not readable until the next disarm().
    void rest();
    [[nodiscard]] Bus& bus() const { return bus_; }
    [[nodiscard]] const Link& link() const { return *link_; }

    /// Moves to the present link's pages, if it is not there yet.
    void rebind();

private:
    explicit Set(Bus& bus) : bus_(bus) {}
    bool look() override;
    sys::Result<void> take_waiter();
    void note_armed();
    int try_wait(Subscriber** ret_subscriber);
    [[nodiscard]] u64 rounds_to_newest() const;

    Bus& bus_;
    std::shared_ptr<Link> link_;
    u64 generation_ = 0;
    u32 waiter_number_ = 0;
    std::unique_ptr<protocol::Waiter> waiter_;
    Patience patience_{0};
    std::unique_ptr<Readiness> readiness_;  ///< nullptr: no descriptor was asked for
    std::vector<Subscriber*> subscribers_;
    std::size_t turn_ = 0;
};

}  // namespace ipcbus::client
