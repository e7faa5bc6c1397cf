// SPDX-License-Identifier: Apache-2.0
// Room in vectors that have an element for each attachment: they grow by a quarter, not to the
// double, and shrink again, because what they hold in reserve is memory of each attachment, too.
// No thread rules: as the vector's.
#pragma once

#include <cstddef>
#include <vector>

namespace ipcbus::sys {

/// Before an element is added.
template <class T>
void make_room(std::vector<T>& vector) {
    if (vector.size() == vector.capacity()) {
        vector.reserve(vector.size() + vector.size() / 4 + 2);
    }
}

/// After elements were removed. May not find the memory to move to: then everything stays.
template <class T>
void give_back_room(std::vector<T>& vector) {
    constexpr std::size_t kBytesKept = 1024;
    if (vector.capacity() * sizeof(T) > kBytesKept && vector.size() < vector.capacity() / 4) {
        vector.shrink_to_fit();
    }
}

}  // namespace ipcbus::sys
