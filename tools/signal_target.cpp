// SPDX-License-Identifier: Apache-2.0
// Pidfiles and pidfds; see signal_target.hpp.
#include "signal_target.hpp"

#include "cli.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <limits>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

namespace ipcbus::tools {

using sys::fail;
using sys::fail_errno;
using sys::Result;
using sys::UniqueFd;

namespace {

Result<std::string> read_start(int fd) {
    std::array<char, 4096> bytes;
    std::size_t count = 0;
    while (count < bytes.size()) {
        const ssize_t got = ::read(fd, bytes.data() + count, bytes.size() - count);
        if (got < 0 && errno != EINTR) {
            return fail_errno("read");
        }
        if (got == 0) {
            break;
        }
        count += got > 0 ? static_cast<std::size_t>(got) : 0;
    }
    return std::string(bytes.data(), count);
}

/// The first word; what may follow it (PostgreSQL writes more lines) is not ours.
Result<pid_t> parse_pid(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    text.remove_prefix(begin == std::string_view::npos ? text.size() : begin);
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
    const bool ends = end == text.data() + text.size() || *end == '\n' || *end == ' ' ||
                      *end == '\t' || *end == '\r';
    if (error != std::errc() || pid <= 0 || !ends) {
        return fail(EINVAL, "it holds no process id");
    }
    return pid;
}

/// When a process was started, as nanoseconds since 1970: known to a hundredth of a second.
Result<std::int64_t> started_ns(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/stat";
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) {
        return fail_errno(path.c_str());
    }
    const std::string text = IPCBUS_TRY(read_start(file.get()));
    // Field 22; the second one, in parentheses, may hold anything.
    std::size_t place = text.rfind(')');
    for (int field = 2; field < 22 && place != std::string::npos; field++) {
        place = text.find(' ', place + 1);
    }
    std::int64_t ticks = 0;
    if (place == std::string::npos ||
        std::from_chars(text.data() + place + 1, text.data() + text.size(), ticks).ec !=
            std::errc()) {
        return fail(EIO, path + " is not understood");
    }
    timespec boot{};
    timespec real{};
    (void)::clock_gettime(CLOCK_BOOTTIME, &boot);
    (void)::clock_gettime(CLOCK_REALTIME, &real);
    const auto ns = [](const timespec& time) {
        return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    };
    return ticks * (1'000'000'000 / ::sysconf(_SC_CLK_TCK)) + ns(real) - ns(boot);
}

/// Whether all of a process's user ids are `uid`. False, too, if that cannot be found out.
bool runs_as(pid_t pid, uid_t uid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/status";
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const Result<std::string> text = file ? read_start(file.get()) : fail_errno("open");
    constexpr std::string_view kLine = "\nUid:";
    const std::size_t place = text.ok() ? text.value().find(kLine) : std::string::npos;
    if (place == std::string::npos) {
        return false;
    }
    const char* next = text.value().data() + place + kLine.size();
    const char* const end = text.value().data() + text.value().size();
    for (int i = 0; i < 3; i++) {  // real, effective, saved
        uid_t found = 0;
        while (next != end && *next == '\t') {
            next++;
        }
        const auto [behind, error] = std::from_chars(next, end, found);
        if (error != std::errc() || found != uid) {
            return false;
        }
        next = behind;
    }
    return true;
}

bool is_root_or_us(uid_t uid) { return uid == 0 || uid == ::geteuid(); }

/// The directories that `path` names, from the first one on. Empty: nobody may have put another
/// file in the place of `file` but root, us, and its owner, who may do so for processes of its own.
/// Who may change one directory may change all below it, but not that it stands on the way: looked
/// at one after the other, while they may change, it is found all the same.
std::string why_path_not_trusted(const std::string& path, const struct stat& file, pid_t pid) {
    std::string way = path.front() == '/' ? "/" : ".";
    for (std::size_t end = 0; end != std::string::npos; end = path.find('/', end + 1)) {
        if (end != 0) {
            way = path.substr(0, end);
        }
        struct stat named{};
        struct stat status{};
        if (::lstat(way.c_str(), &named) != 0 || ::stat(way.c_str(), &status) != 0) {
            return quoted(way) + " on its way: " + std::strerror(errno);
        }
        if (!is_root_or_us(named.st_uid) && S_ISLNK(named.st_mode)) {
            return quoted(way) + " on its way is a symbolic link of user " +
                   std::to_string(named.st_uid) + "'s";
        }
        if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0) {
            return "others than its owner may write the directory " + quoted(way) +
                   " (chmod go-w, or +t)";
        }
        const uid_t owner = status.st_uid;
        if (!is_root_or_us(owner) && (file.st_uid != owner || !runs_as(pid, owner))) {
            return "the directory " + quoted(way) + " belongs to user " + std::to_string(owner) +
                   ", who is not that of both the file and process " + std::to_string(pid);
        }
    }
    return "";
}

/// Empty: the file may say whom to signal.
std::string why_not_trusted(const std::string& path, const struct stat& file, pid_t pid) {
    if (!S_ISREG(file.st_mode) || file.st_nlink != 1) {
        return "it is no regular file, or has more names than this";
    }
    if ((file.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return "others than its owner may write it (chmod go-w)";
    }
    if (!is_root_or_us(file.st_uid) && !runs_as(pid, file.st_uid)) {
        return "it belongs to user " + std::to_string(file.st_uid) +
               ", who is not that of process " + std::to_string(pid) + ", nor ours, nor root";
    }
    return why_path_not_trusted(path, file, pid);
}

/// Real-time signals are queued, each of them, or refused; sent as kill(2) does, they would be
/// merged without a word once the queue is full.
long send_to(int process, int number) {
    siginfo_t info{};
    info.si_signo = number;
    info.si_code = SI_QUEUE;
    info.si_pid = ::getpid();
    info.si_uid = ::getuid();
    return ::syscall(SYS_pidfd_send_signal, process, number,
                     number >= SIGRTMIN ? &info : nullptr, 0);
}

bool same_time(const timespec& a, const timespec& b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool same(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
           same_time(a.st_mtim, b.st_mtim) && same_time(a.st_ctim, b.st_ctim);
}

}  // namespace

SignalTarget::SignalTarget(std::string pidfile, int number)
    : pidfile_(std::move(pidfile)), number_(number) {}

Result<void> SignalTarget::send() {
    for (int tries = 0;; tries++) {
        struct stat now{};
        if (!process_ || ::lstat(pidfile_.c_str(), &now) != 0 || !same(now, file_)) {
            IPCBUS_TRY(find_again());
        }
        if (send_to(process_.get(), number_) == 0) {
            return {};
        }
        const int error = errno;
        if (error == EAGAIN) {
            return fail(EAGAIN, "too many signals are pending with the process of " +
                                    quoted(pidfile_));
        }
        process_.reset();
        // It has ended: perhaps another one stands in the file by now.
        if (error != ESRCH || tries > 0) {
            return fail(error, error == ESRCH ? "the process of " + quoted(pidfile_) + " has ended"
                                              : std::strerror(error));
        }
    }
}

/// Whoever writes the file where it is, leaves it empty for a moment.
Result<void> SignalTarget::find_again() {
    Result<void> found = find();
    if (!found.ok() && found.error().code == EINVAL) {
        constexpr timespec kMoment{0, 10'000'000};
        (void)::nanosleep(&kMoment, nullptr);
        found = find();
    }
    return found;
}

Result<void> SignalTarget::find() {
    constexpr std::int64_t kSlackNs = 1'000'000'000;  // of clocks that are set, and of ticks
    process_.reset();
    const UniqueFd file(
        ::open(pidfile_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY));
    struct stat status{};
    if (!file && errno == ELOOP) {
        return fail(EPERM, quoted(pidfile_) + " is not trusted: it is a symbolic link");
    }
    if (!file || ::fstat(file.get(), &status) != 0) {
        return fail(errno, quoted(pidfile_) + ": " + std::strerror(errno));
    }
    const Result<std::string> text = read_start(file.get());
    const Result<pid_t> pid = text.ok() ? parse_pid(text.value()) : Result<pid_t>(text.error());
    if (!pid.ok()) {
        return fail(pid.error().code, quoted(pidfile_) + ": " + pid.error().what);
    }
    const std::string who = "process " + std::to_string(pid.value()) + " of " + quoted(pidfile_);
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid.value(), 0)));
    if (!process) {
        return fail(errno, errno == ESRCH ? who + " has ended" : who + ": " + std::strerror(errno));
    }
    const std::int64_t written_ns =
        std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    const Result<std::int64_t> began_ns = started_ns(pid.value());
    const std::string distrust = why_not_trusted(pidfile_, status, pid.value());
    // Whether it still runs is asked after all that was read of it: else that may be another one's.
    if (::syscall(SYS_pidfd_send_signal, process.get(), 0, nullptr, 0) != 0 && errno == ESRCH) {
        return fail(ESRCH, who + " has ended");
    }
    if (!began_ns.ok()) {
        return fail(began_ns.error().code, who + ": " + began_ns.error().what);
    }
    if (began_ns.value() > written_ns + kSlackNs) {
        return fail(ESRCH, who + " was started after the file was written: it is another one (or "
                               "the clock was set since: then touch the file)");
    }
    if (!distrust.empty()) {
        return fail(EPERM, quoted(pidfile_) + " is not trusted: " + distrust);
    }
    process_ = std::move(process);
    file_ = status;
    return {};
}

}  // namespace ipcbus::tools
