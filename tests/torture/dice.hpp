// SPDX-License-Identifier: Apache-2.0
// Dice: all chance of the torture. The same seed gives the same throws, on every machine. Owned by
// one role, one thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

namespace ipcbus::torture {

class Dice {
public:
    explicit Dice(std::uint64_t seed) : random_(seed) {}

    /// 0 to `end` - 1.
    [[nodiscard]] std::uint64_t below(std::uint64_t end) { return random_() % end; }
    [[nodiscard]] bool one_in(std::uint64_t times) { return below(times) == 0; }
    [[nodiscard]] std::uint64_t pick(std::initializer_list<std::uint64_t> of) {
        return of.begin()[below(of.size())];
    }
    [[nodiscard]] std::uint64_t any() { return random_(); }

private:
    std::mt19937_64 random_;
};

}  // namespace ipcbus::torture
