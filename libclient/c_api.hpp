// SPDX-License-Identifier: Apache-2.0
// What all functions of the C ABI do alike: option structs, exceptions, the end of a handle.
// Included by c_api*.cpp alone.
#pragma once

#include "bus.hpp"
#include "error_text.hpp"

#include <ipcbus/ipcbus.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>

/// The opaque handle of the header is this object; so with the others, each in its file.
struct ipcbus_bus {
    std::unique_ptr<ipcbus::client::Bus> bus;
};

namespace ipcbus::client {

/// What a caller gave us: as much of the struct as it knows, the rest zero. A struct that is larger
/// than ours must have zeroes where we know nothing.
template <class Options>
int take_options(const Options* given, Options* ret_options) {
    *ret_options = Options{};
    if (given == nullptr) {
        return 0;
    }
    const std::size_t bytes = given->struct_size;
    if (bytes < sizeof(std::size_t)) {
        return failed(EINVAL, "struct_size of the options is not set");
    }
    const auto* raw = reinterpret_cast<const unsigned char*>(given);
    for (std::size_t i = sizeof(Options); i < bytes; i++) {
        if (raw[i] != 0) {
            return failed(EINVAL, "the options are of a newer version of the library");
        }
    }
    std::memcpy(ret_options, given, std::min(bytes, sizeof(Options)));
    return 0;
}

/// Calls `body`; what the standard library throws becomes an error.
template <class Body>
auto guarded(Body&& body) -> decltype(body()) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return failed(ENOMEM, "out of memory");
    } catch (const std::exception& error) {
        return failed(ENOMEM, error.what());  // what std::string or a mutex may throw
    }
}

/// Gives the caller a handle that was made from this bus, and is closed with it.
template <class Handle>
int adopted(Bus& bus, Handle* made, Handle** ret_handle) {
    std::unique_ptr<Handle> handle(made);
    bus.adopt(made, [made] { delete made; });
    *ret_handle = handle.release();
    return 0;
}

/// After a fork nothing of the parent's may be touched, not even to free it: its writable pages are
/// not there, and what is mapped at their addresses may be somebody else's by now.
template <class Handle, class Object>
void destroy(Handle* handle, std::unique_ptr<Object>& object) {
    if (object->bus().in_child()) {
        (void)object.release();
    } else {
        object->bus().disown(handle);
    }
    delete handle;
}

}  // namespace ipcbus::client
