// SPDX-License-Identifier: Apache-2.0
// Memory that changes while it is read, the same way each time. In a fuzzer's build the compiler
// calls a function before every load of the code under test (-fsanitize-coverage=trace-loads);
// where that load goes to memory that another process could write, the changes that are due are
// made first. So what a real peer does in between two loads is part of the input. In a build
// without the hook the changes are made before the call that they would have fallen into.
// To be included by one file of a program. One thread.
#pragma once

#include "fuzz.hpp"

#include <array>

#ifdef __clang__
#define IPCBUS_UNWATCHED __attribute__((no_sanitize("coverage")))
#else
#define IPCBUS_UNWATCHED
#endif

namespace ipcbus::fuzz {

class HostileMemory {
public:
    static constexpr std::size_t kChangesMax = 3;

    struct Range {
        const std::byte* begin = nullptr;
        std::size_t bytes = 0;
        [[nodiscard]] bool holds(const void* at) const { return at >= begin && at < begin + bytes; }
    };

    using Ranges = std::array<Range, 6>;

    /// Something to be done before the load number `delay` of the next call.
    struct Change {
        std::uint8_t delay = 0;
        void (*make)(const Change&) = nullptr;
        std::uint8_t kind = 0;
        std::uint8_t what = 0;
        std::uint16_t value = 0;
    };

    static HostileMemory& instance() {
        static HostileMemory memory;
        return memory;
    }

    /// The loads that count.
    void set_ranges(const Ranges& ranges) { ranges_ = ranges; }
    void add(const Change& change) {
#ifdef IPCBUS_LOAD_HOOK
        if (count_ < kChangesMax) {
            changes_[count_++] = change;
        }
#else
        change.make(change);
#endif
    }

    /// Runs one call of the code under test; it may load hostile memory `loads_max` times.
    template <class Call>
    auto during(unsigned loads_max, Call&& call) {
        loads_ = 0;
        loads_max_ = loads_max;
        disturbed_ = count_ > 0;
        listening_ = true;
        auto result = call();
        listening_ = false;
        make_due(~0u);
        return result;
    }
    /// Whether anything changed during the last call.
    [[nodiscard]] bool disturbed() const { return disturbed_; }

    IPCBUS_UNWATCHED void load(const void* at) {
        bool counts = false;
        for (const Range& range : ranges_) {
            counts = counts || range.holds(at);
        }
        if (!listening_ || !counts) {
            return;
        }
        listening_ = false;
        FUZZ_CHECK(loads_ < loads_max_);  // it would go on for ever
        make_due(loads_++);
        listening_ = true;
    }

private:
    void make_due(unsigned load) {
        std::size_t kept = 0;
        for (std::size_t i = 0; i < count_; i++) {
            if (changes_[i].delay <= load) {
                changes_[i].make(changes_[i]);
            } else {
                changes_[kept++] = changes_[i];
            }
        }
        count_ = kept;
    }

    Ranges ranges_;
    std::array<Change, kChangesMax> changes_;
    std::size_t count_ = 0;
    unsigned loads_ = 0;
    unsigned loads_max_ = 0;
    bool listening_ = false;
    bool disturbed_ = false;
};

}  // namespace ipcbus::fuzz

#ifdef IPCBUS_LOAD_HOOK
// Names and forms are the compiler's.
#define IPCBUS_HOOK(bytes, type)                                             \
    extern "C" IPCBUS_UNWATCHED void __sanitizer_cov_load##bytes(type* at) { \
        ipcbus::fuzz::HostileMemory::instance().load(at);                    \
    }
IPCBUS_HOOK(1, std::uint8_t)
IPCBUS_HOOK(2, std::uint16_t)
IPCBUS_HOOK(4, std::uint32_t)
IPCBUS_HOOK(8, std::uint64_t)
IPCBUS_HOOK(16, __uint128_t)
#undef IPCBUS_HOOK
#endif
