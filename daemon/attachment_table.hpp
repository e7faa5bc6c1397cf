// SPDX-License-Identifier: Apache-2.0
// All attachments, by id: in blocks of memory, so that none costs an allocation of its own, found
// through a hash table of 4-byte places. An attachment stays where it is until it is erased. Memory
// is given back when the last one goes. Owned by the bus, the daemon's one thread.
#pragma once

#include "attachment.hpp"

#include <array>
#include <memory>
#include <vector>

namespace ipcbus::daemon {

class AttachmentTable {
public:
    /// A new one, with that id, which is not 0 and was never used.
    Attachment& add(Id id);
    /// Null: there is none.
    [[nodiscard]] Attachment* find(Id id) const;
    void erase(Attachment& attachment);
    [[nodiscard]] std::size_t size() const { return size_; }

    /// To go through all of them, while some come and go: each keeps its place, below places().
    [[nodiscard]] std::size_t places() const { return blocks_.size() * kBlock; }
    /// Null: there is none.
    [[nodiscard]] const Attachment* at_place(std::size_t place) const {
        const Attachment& attachment = at(static_cast<std::uint32_t>(place));
        return attachment.id == 0 ? nullptr : &attachment;
    }

private:
    static constexpr std::size_t kBlock = 256;
    using Block = std::array<Attachment, kBlock>;

    [[nodiscard]] Attachment& at(std::uint32_t number) const {
        return (*blocks_[number / kBlock])[number % kBlock];
    }
    [[nodiscard]] std::size_t home(Id id) const;
    /// Where its number stands in index_, or the empty place where it would.
    [[nodiscard]] std::size_t place(Id id) const;
    void grow_index();

    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<std::uint32_t> index_;  ///< numbers + 1; 0: empty. A power of two, 3/4 full at most
    Attachment* free_ = nullptr;        ///< chained by `next`, number in `slot`
    std::size_t size_ = 0;
};

}  // namespace ipcbus::daemon
