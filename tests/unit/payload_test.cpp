// SPDX-License-Identifier: Apache-2.0
// The messages of ipcbus-bench. Goal: what one end makes, whichever way, the other finds right; and
// a change of any one bit of it, another number, or a mixture of two messages is found. Method: all
// sizes around the words and lines, every byte of each changed once.
#include "bench/payload.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace ipcbus::bench;

namespace {

constexpr std::uint64_t kSalt = 0x1234567887654321;
const std::vector<std::size_t> kSizes = {0,  1,   7,   8,   9,   15,  16,  17,  31,   63,   64,
                                         65, 100, 127, 128, 200, 511, 512, 513, 1000, 1024, 5000};

std::vector<std::byte> made(std::size_t size, std::uint64_t number) {
    std::vector<std::byte> message(size + 1, std::byte{0xee});
    fill(message.data(), size, number, kSalt);
    CHECK(message.back() == std::byte{0xee});
    return message;
}

}  // namespace

TEST_SUITE("payload") {
    TEST_CASE("filled in place and made to be copied are the same") {
        for (const std::size_t size : kSizes) {
            CAPTURE(size);
            Source source(size, kSalt, 3);
            for (std::uint64_t number = 0; number < 200; ++number) {
                const auto right = made(size, number);
                const void* message = source.make(number % 3, number);
                CHECK(std::memcmp(message, right.data(), size) == 0);
                CHECK(check(message, size, number, kSalt));
                CHECK(check_head(message, size, number, kSalt));
            }
        }
    }

    TEST_CASE("a batch of messages stands side by side") {
        for (const std::size_t size : {std::size_t{64}, std::size_t{1024}}) {
            constexpr std::size_t kSlots = 80;  // more than there are shifts
            Source source(size, kSalt, kSlots);
            std::vector<const void*> messages;
            for (std::size_t i = 0; i < kSlots; ++i) {
                messages.push_back(source.make(i, i));
            }
            for (std::size_t i = 0; i < kSlots; ++i) {
                CHECK(check(messages[i], size, i, kSalt));
            }
        }
    }

    TEST_CASE("every bit counts") {
        for (const std::size_t size : kSizes) {
            CAPTURE(size);
            auto message = made(size, 77);
            for (std::size_t i = 0; i < size; ++i) {
                const std::byte right = message[i];
                message[i] = right ^ std::byte{static_cast<unsigned char>(1u << i % 8)};
                CHECK(!check(message.data(), size, 77, kSalt));
                CHECK(check_head(message.data(), size, 77, kSalt) == (i >= kHeadBytes));
                CHECK(explain(message.data(), size, 77, kSalt)
                          .starts_with("byte " + std::to_string(i) + " of "));
                message[i] = right;
            }
            CHECK(check(message.data(), size, 77, kSalt));
        }
    }

    TEST_CASE("another number, another run, another place") {
        for (const std::size_t size : kSizes) {
            CAPTURE(size);
            if (size == 0) {
                continue;
            }
            const auto message = made(size, 5);
            CHECK(!check(message.data(), size, 6, kSalt));
            CHECK(check(message.data(), size, 5, kSalt + 1) == (size <= kWord));
            if (size > kWord) {
                CHECK(!check(message.data() + 1, size - 1, 5, kSalt));
            }
        }
    }

    TEST_CASE("a mixture of two messages is found, but for one shift in 64") {
        constexpr std::size_t kSize = 4096;
        int found = 0;
        for (std::uint64_t number = 0; number < 1000; ++number) {
            auto message = made(kSize, number);
            const auto other = made(kSize, number + 13);
            std::copy(other.begin() + kSize / 2, other.end(), message.begin() + kSize / 2);
            found += check(message.data(), kSize, number, kSalt) ? 0 : 1;
        }
        CHECK(found > 950);
        CHECK(found <= 1000);
    }
}
