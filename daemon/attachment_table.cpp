// SPDX-License-Identifier: Apache-2.0
// Blocks, and open addressing with linear probing. See attachment_table.hpp.
#include "attachment_table.hpp"

#include "sys/assert.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace ipcbus::daemon {

namespace {

constexpr std::size_t kIndexMin = 16;

}  // namespace

/// Ids follow one another, so any mixing that spreads neighbours will do.
std::size_t AttachmentTable::home(Id id) const {
    const int bits = std::countr_zero(index_.size());
    return static_cast<std::size_t>((id * 0x9e3779b97f4a7c15u) >> (64 - bits));
}

std::size_t AttachmentTable::place(Id id) const {
    std::size_t at_place = home(id);
    while (index_[at_place] != 0 && at(index_[at_place] - 1).id != id) {
        at_place = (at_place + 1) & (index_.size() - 1);
    }
    return at_place;
}

Attachment* AttachmentTable::find(Id id) const {
    if (size_ == 0) {
        return nullptr;
    }
    const std::uint32_t entry = index_[place(id)];
    return entry == 0 ? nullptr : &at(entry - 1);
}

void AttachmentTable::grow_index() {
    const std::vector<std::uint32_t> old = std::move(index_);
    index_.assign(std::max(kIndexMin, 2 * old.size()), 0);
    for (const std::uint32_t entry : old) {
        if (entry != 0) {
            index_[place(at(entry - 1).id)] = entry;
        }
    }
}

Attachment& AttachmentTable::add(Id id) {
    if (4 * (size_ + 1) > 3 * index_.size()) {
        grow_index();
    }
    if (free_ == nullptr) {
        const auto first = static_cast<std::uint32_t>(blocks_.size() * kBlock);
        blocks_.push_back(std::make_unique<Block>());
        for (std::uint32_t i = kBlock; i-- > 0;) {
            Attachment& unused = at(first + i);
            unused.slot = first + i;
            unused.next = std::exchange(free_, &unused);
        }
    }
    Attachment& attachment = *free_;
    free_ = attachment.next;
    const std::uint32_t number = attachment.slot;
    const std::size_t at_place = place(id);
    IPCBUS_ASSERT(id != 0 && index_[at_place] == 0);
    index_[at_place] = number + 1;
    attachment = Attachment{};
    attachment.id = id;
    size_++;
    return attachment;
}

void AttachmentTable::erase(Attachment& attachment) {
    std::size_t hole = place(attachment.id);
    const std::uint32_t number = index_[hole] - 1;
    IPCBUS_ASSERT(index_[hole] != 0 && &at(number) == &attachment);
    // What stands behind it moves up, if it may stand there: no search must end at the hole.
    const std::size_t mask = index_.size() - 1;
    for (std::size_t next = (hole + 1) & mask; index_[next] != 0; next = (next + 1) & mask) {
        if (((next - home(at(index_[next] - 1).id)) & mask) >= ((next - hole) & mask)) {
            index_[hole] = index_[next];
            hole = next;
        }
    }
    index_[hole] = 0;
    attachment = Attachment{};
    attachment.slot = number;
    attachment.next = std::exchange(free_, &attachment);
    if (--size_ == 0) {
        free_ = nullptr;
        blocks_ = std::vector<std::unique_ptr<Block>>();
        index_ = std::vector<std::uint32_t>();
    }
}

}  // namespace ipcbus::daemon
