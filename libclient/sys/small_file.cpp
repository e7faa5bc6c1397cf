// SPDX-License-Identifier: Apache-2.0
// Reading a small file. See small_file.hpp.
#include "sys/small_file.hpp"

#include "sys/unique_fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ipcbus::sys {

Result<std::string> read_small_file(const std::string& path, const std::string& name,
                                    std::size_t bytes_max, Secrecy secrecy) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        const int code = errno;
        return fail(code, name + ": " + std::strerror(code));
    }
    if (!S_ISREG(status.st_mode) || status.st_size > static_cast<off_t>(bytes_max)) {
        return fail(EINVAL, name + ": it is no regular file of at most " +
                                std::to_string(bytes_max / 1024) + " KiB");
    }
    if (secrecy == Secrecy::secret && (status.st_mode & 077) != 0) {
        return fail(EACCES, name + ": others than its owner can get at it: chmod 600 " + path);
    }
    // A size of its own, not what it grows to meanwhile.
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    std::size_t have = 0;
    while (have < text.size()) {
        const ssize_t got = ::read(fd.get(), text.data() + have, text.size() - have);
        if (got < 0 && errno != EINTR) {
            const int code = errno;
            return fail(code, name + ": " + std::strerror(code));
        }
        if (got == 0) {
            break;
        }
        have += got > 0 ? static_cast<std::size_t>(got) : 0;
    }
    text.resize(have);
    return text;
}

}  // namespace ipcbus::sys
