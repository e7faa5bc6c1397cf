// SPDX-License-Identifier: Apache-2.0
// The long copies of copy_untrusted, in a file of its own so that no optimiser sees into it. See
// fence.hpp.
#include "protocol/fence.hpp"

namespace ipcbus::protocol {

#if defined(IPCBUS_TSAN)

// ThreadSanitizer intercepts memcpy; what it must not see is done word by word, uninstrumented.
__attribute__((no_sanitize("thread"))) void
copy_untrusted_out_of_line(void* to, const void* from, std::size_t bytes) {
    auto* out = static_cast<volatile unsigned char*>(to);
    const auto* in = static_cast<const volatile unsigned char*>(from);
    for (std::size_t i = 0; i < bytes; i++) {
        out[i] = in[i];
    }
}

#else

void copy_untrusted_out_of_line(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
}

#endif

}  // namespace ipcbus::protocol
