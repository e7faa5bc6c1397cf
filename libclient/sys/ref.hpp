// SPDX-License-Identifier: Apache-2.0
// Ref<T>: a counted reference of one word, for objects of which a process may have thousands. The
// object counts (Counted); the last Ref deletes it. Different Refs of one object may be used by
// different threads at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace ipcbus::sys {

class Counted {
public:
    Counted() = default;
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

protected:
    ~Counted() = default;

private:
    template <class T>
    friend class Ref;
    mutable std::atomic<std::uint32_t> references_{0};
};

template <class T>
class Ref {
public:
    Ref() = default;
    explicit Ref(T* object) : object_(object) {
        if (object_ != nullptr) {
            // relaxed: whoever makes a reference has one, or made the object.
            object_->references_.fetch_add(1, std::memory_order_relaxed);
        }
    }
    Ref(const Ref& other) : Ref(other.object_) {}
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() {
        // release, acquire: the last one deletes after all that the others did.
        if (object_ != nullptr &&
            object_->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            delete object_;
        }
    }

    [[nodiscard]] T* get() const { return object_; }
    T* operator->() const { return object_; }
    T& operator*() const { return *object_; }
    explicit operator bool() const { return object_ != nullptr; }

private:
    T* object_ = nullptr;
};

}  // namespace ipcbus::sys
