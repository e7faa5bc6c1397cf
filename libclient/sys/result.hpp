// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value, or the Error that kept us from it. For expected outcomes and for failures of
// the environment, which travel up to the owner that can close a session, refuse a request or exit.
// A broken assumption of our own is no Error: that is IPCBUS_ASSERT (sys/assert.hpp). No thread
// rules: plain values. Why not std::expected: libstdc++ 12 hides it from the clang that runs the
// fuzzers, and one type everywhere is worth sixty lines.
#pragma once

#include "sys/assert.hpp"

#include <cerrno>
#include <cstring>
#include <source_location>
#include <string>
#include <utility>
#include <variant>

namespace ipcbus::sys {

/// Why something could not be done. `code` is a positive errno, `what` a sentence for people:
/// what was tried and, where there is one, the remedy. `where` is for the daemon's debug log.
struct Error {
    int code = 0;
    std::string what;
    std::source_location where = std::source_location::current();
};

/// An Error with its text, for `return fail(EINVAL, "ring_bytes must be a power of two");`.
[[nodiscard]] inline Error
fail(int code, std::string what,
     std::source_location where = std::source_location::current()) {
    return Error{code, std::move(what), where};
}

/// An Error from errno, for a system call that has just failed: "mmap: Cannot allocate memory".
[[nodiscard]] inline Error
fail_errno(const char* call, std::source_location where = std::source_location::current()) {
    const int code = errno;
    return Error{code, std::string(call) + ": " + std::strerror(code), where};
}

template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

    [[nodiscard]] bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    [[nodiscard]] T& value() & {
        IPCBUS_ASSERT(ok());
        return *std::get_if<0>(&state_);
    }
    [[nodiscard]] const T& value() const& {
        IPCBUS_ASSERT(ok());
        return *std::get_if<0>(&state_);
    }
    [[nodiscard]] T&& value() && {
        IPCBUS_ASSERT(ok());
        return std::move(*std::get_if<0>(&state_));
    }
    [[nodiscard]] Error& error() {
        IPCBUS_ASSERT(!ok());
        return *std::get_if<1>(&state_);
    }
    [[nodiscard]] const Error& error() const {
        IPCBUS_ASSERT(!ok());
        return *std::get_if<1>(&state_);
    }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), ok_(false) {}  // NOLINT: implicit

    [[nodiscard]] bool ok() const { return ok_; }
    explicit operator bool() const { return ok_; }
    [[nodiscard]] Error& error() {
        IPCBUS_ASSERT(!ok_);
        return error_;
    }
    [[nodiscard]] const Error& error() const {
        IPCBUS_ASSERT(!ok_);
        return error_;
    }

private:
    Error error_;
    bool ok_ = true;
};

namespace detail {
template <class T>
T take(Result<T>&& result) {
    return std::move(result).value();
}
inline void take(Result<void>&&) {}
}  // namespace detail

}  // namespace ipcbus::sys

/// Evaluates `expression`, a Result: its value, or a return of its Error from this function.
#define IPCBUS_TRY(expression)                                              \
    __extension__({                                                         \
        auto ipcbus_try_result = (expression);                              \
        if (!ipcbus_try_result.ok()) {                                      \
            return std::move(ipcbus_try_result.error());                    \
        }                                                                   \
        ::ipcbus::sys::detail::take(std::move(ipcbus_try_result));          \
    })
