// SPDX-License-Identifier: Apache-2.0
// The reader role of the torture: one subscription, or several in a set, of all modes and filters,
// read by all calls there are, slowly or not; begun anew now and then; each with an account. Runs
// in a thread of its own in a client's process.
#pragma once

#include "account.hpp"
#include "bus_client.hpp"
#include "dice.hpp"

#include <memory>
#include <vector>

namespace ipcbus::torture {

class ReaderRole {
public:
    /// `steady`: it subscribes to everything, reliably, once; and must hear all of it.
    ReaderRole(const test::Bus& bus, Scene& scene, std::uint64_t seed, bool steady)
        : bus_(bus), scene_(scene), dice_(seed), steady_(steady) {}

    /// Subscribes; then the role counts as begun.
    void begin();
    /// Reads until everybody has ended and nothing is missing, or the process is killed.
    void play();

private:
    struct Subscription {
        std::string filter;
        std::uint32_t mode = IPCBUS_RELIABLE;
        std::int64_t spin_ns = 0;
        test::Subscriber subscriber;
        std::unique_ptr<Account> account;
    };
    void draw(Subscription& one);
    void subscribe(Subscription& one);
    void subscribe_anew(Subscription& one);
    void read(Subscription& one, std::int64_t timeout_ns);
    void receive(Subscription& one, std::int64_t timeout_ns);
    void borrow(Subscription& one, std::int64_t timeout_ns);
    [[nodiscard]] bool nothing(Subscription& one, std::int64_t result,
                               const ipcbus_message& message);
    void lost(const Subscription& one, std::uint64_t count);
    void finish(Subscription& one);
    [[nodiscard]] bool may_end();
    void give_up();

    const test::Bus& bus_;
    Scene& scene_;
    Dice dice_;
    const bool steady_;
    std::vector<Subscription> subscriptions_;
    test::Set set_;  ///< ends before the subscriptions do
    std::uint64_t slow_every_ = 0;
    std::vector<char> buffer_ = std::vector<char>(4096);
    std::uint64_t turns_ = 0;
    bool idle_ = false;
};

}  // namespace ipcbus::torture
