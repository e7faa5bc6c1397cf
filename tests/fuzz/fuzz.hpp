// SPDX-License-Identifier: Apache-2.0
// What every fuzzer here is made of: the bytes it was given, taken one value after the other (never
// too few: behind the end there are zeros), and a check that ends the program. A fuzzer is a
// function of its input alone, so that an input shows again what it has shown once. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// What must hold whatever the input is.
#define FUZZ_CHECK(condition)           \
    (__builtin_expect(!!(condition), 1) \
         ? static_cast<void>(0)         \
         : ::ipcbus::fuzz::check_failed(#condition, __FILE__, __LINE__))

namespace ipcbus::fuzz {

[[noreturn]] inline void check_failed(const char* text, const char* file, int line) {
    std::fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, text);
    std::abort();
}

class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

    [[nodiscard]] bool empty() const { return rest_.empty(); }

    std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
    std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
    std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
    std::uint64_t u64() { return number(8); }
    /// 0 to count - 1.
    std::size_t below(std::size_t count) { return byte() % count; }
    bool flag() { return (byte() & 1) != 0; }

    /// At most `count` bytes.
    std::span<const std::uint8_t> bytes(std::size_t count) {
        const auto taken = rest_.first(count < rest_.size() ? count : rest_.size());
        rest_ = rest_.subspan(taken.size());
        return taken;
    }
    std::string_view text(std::size_t count) {
        const auto taken = bytes(count);
        return {reinterpret_cast<const char*>(taken.data()), taken.size()};
    }
    std::string_view rest() { return text(rest_.size()); }

private:
    std::uint64_t number(std::size_t count) {
        std::uint64_t value = 0;
        const auto taken = bytes(count);
        if (!taken.empty()) {
            std::memcpy(&value, taken.data(), taken.size());
        }
        return value;
    }

    std::span<const std::uint8_t> rest_;
};

}  // namespace ipcbus::fuzz
