// SPDX-License-Identifier: Apache-2.0
// Account: the oracle of one subscription. It is told what the subscription received and what it
// was told to have lost, and knows from the scene what there was: any message that is missing
// without a word, comes twice, comes out of order, comes of before the subscription or is counted
// wrong is a fault. Owned by one reader role, one thread.
//
// What it goes by, for each sender, with A = its `published` before the subscribe and B = its
// `begun` after it: the first message that the subscription accounts for is of A + 1 to B + 1 ("no
// message published afterwards is missed", and none of before comes). From there on, received and
// told lost make a sequence without a hole, as far as topics match the filter. In the end it
// reaches the last message published; of a killed sender also the one in doubt, or not: but then no
// reader has it.
#pragma once

#include "scene.hpp"

#include <ipcbus/ipcbus.h>

#include <map>
#include <string>
#include <vector>

namespace ipcbus::torture {

/// How many publishes of each sender had returned, or begun, at one moment.
class Snapshot {
public:
    enum class Of { published, begun };
    Snapshot(const Scene& scene, Of what);
    /// 0 for senders that came later.
    [[nodiscard]] std::uint64_t operator[](std::uint64_t sender) const {
        return sender < numbers_.size() ? numbers_[sender] : 0;
    }

private:
    std::vector<std::uint64_t> numbers_;
};

class Account {
public:
    /// `before` and `after`: of the call of ipcbus_subscribe, published and begun.
    Account(Scene& scene, std::string filter, std::uint32_t mode, Snapshot before, Snapshot after);

    /// A message was received, whole. "": fine; else the fault.
    [[nodiscard]] std::string received(const test::CheckedHeader& header,
                                       const ipcbus_message& message);
    /// The topic that it came with is right.
    [[nodiscard]] std::string topic_fault(const test::CheckedHeader& header,
                                          const ipcbus_message& message) const;
    /// `message` of -ESTALE: so many were lost.
    [[nodiscard]] std::string lost(const ipcbus_message& message);
    /// A loan was overwritten: what its first message said of losses stands, the message does not.
    [[nodiscard]] std::string overwritten(const ipcbus_message& message);

    /// Whether nothing is missing of what has been published so far.
    [[nodiscard]] bool complete() const;
    /// When nothing more can come: the whole truth. `may_miss`: senders that were never heard of
    /// may have been missed as a whole.
    [[nodiscard]] std::string finish(bool may_miss);

    [[nodiscard]] std::uint64_t received_count() const { return received_; }
    [[nodiscard]] std::uint64_t lost_count() const { return lost_; }
    [[nodiscard]] const std::string& filter() const { return filter_; }

private:
    /// What is known of one publication.
    struct Track {
        std::uint64_t sender = 0;   ///< 0: no message yet
        std::uint64_t first = 0;    ///< the first number accounted for; 0: not known yet
        std::uint64_t next = 0;     ///< the number expected next
        std::uint64_t untaken = 0;  ///< of mode latest: lost before `first` is known
    };
    [[nodiscard]] bool matches(std::uint64_t sender, std::uint64_t number) const;
    /// The first number of [from, to) that matches, or `to`.
    [[nodiscard]] std::uint64_t first_match(std::uint64_t sender, std::uint64_t from,
                                            std::uint64_t to) const;
    [[nodiscard]] std::string begin(Track& track, std::uint64_t first);
    [[nodiscard]] std::string go_on(Track& track, std::uint64_t number);
    [[nodiscard]] std::string finish_sender(std::uint64_t sender, const Track* track,
                                            bool may_miss);
    [[nodiscard]] const Track* track_of(std::uint64_t sender) const;
    [[nodiscard]] std::string about(std::uint64_t sender) const;

    Scene& scene_;
    const std::string filter_;
    const bool latest_;
    const bool whole_;  ///< the filter matches all topics of a sender, or none
    const Snapshot before_;
    const Snapshot after_;
    std::map<std::uint64_t, Track> tracks_;                ///< by publication
    std::map<std::uint64_t, std::uint64_t> publications_;  ///< of senders
    std::uint64_t received_ = 0;
    std::uint64_t lost_ = 0;
};

}  // namespace ipcbus::torture
