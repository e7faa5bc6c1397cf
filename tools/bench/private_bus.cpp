// SPDX-License-Identifier: Apache-2.0
// Starting and ending an ipcbusd; see private_bus.hpp.
#include "bench/private_bus.hpp"

#include "stop_signal.hpp"
#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

namespace ipcbus::bench {

using sys::fail;
using sys::fail_errno;
using sys::Result;

namespace {

constexpr std::int64_t kStartNs = 10'000'000'000;
constexpr std::int64_t kStopNs = 5'000'000'000;
/// A daemon that was built without libsystemd does not say that it is ready: then the socket is
/// looked at so often. The first look is early, since such a daemon is soon there, too.
constexpr int kLookMs = 20;

/// Nobody else is on this bus who would have to be kept from taking all of it: limits are as high
/// as they can be, and the same for one user; for rings, half of the memory.
std::string config() {
    constexpr std::uint64_t kOneRing = 64 << 20;
    constexpr std::uint64_t kDescriptorsKept = 64;  // as the daemon keeps by itself
    constexpr std::uint64_t kDescriptorsMax = 1 << 20;
    struct sysinfo info{};
    (void)::sysinfo(&info);
    const std::uint64_t ring_bytes =
        std::max(kOneRing, std::uint64_t{info.totalram} * info.mem_unit / 2);
    rlimit files{};
    (void)::getrlimit(RLIMIT_NOFILE, &files);
    const std::uint64_t descriptors =
        std::clamp<std::uint64_t>(files.rlim_max, 2 * kDescriptorsKept, kDescriptorsMax) -
        kDescriptorsKept;
    const std::string counts =
        "clients = 65536\npublications = 262144\nsubscriptions = 262144\n"
        "ring_bytes = " +
        std::to_string(ring_bytes) +
        "\n"
        "descriptors = " +
        std::to_string(descriptors) + "\n";
    return "[limits]\ndrain_timeout = \"1s\"\n" + counts + "[limits.per_uid]\n" + counts;
}

std::string find_daemon() {
    char self[4096];
    const ssize_t bytes = ::readlink("/proc/self/exe", self, sizeof(self));
    const std::string path(self, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    for (const char* place : {"ipcbusd", "../daemon/ipcbusd"}) {
        if (!folder.empty() && ::access((folder + place).c_str(), X_OK) == 0) {
            return folder + place;
        }
    }
    return "ipcbusd";  // execvp looks in PATH
}

/// Where the daemon says that it is ready, see sd_notify(3).
Result<sys::UniqueFd> listen_to_notifications(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, path + ": too long for a socket; choose another TMPDIR");
    }
    path.copy(address.sun_path, path.size());
    sys::UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket ||
        ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return fail(errno, path + ": " + std::strerror(errno));
    }
    return socket;
}

bool is_ready(int notifications) {
    char text[512];
    ssize_t bytes = 0;
    while ((bytes = ::recv(notifications, text, sizeof(text), 0)) >= 0) {
        const std::string_view lines(text, static_cast<std::size_t>(bytes));
        if (lines.starts_with("READY=1") || lines.find("\nREADY=1") != lines.npos) {
            return true;
        }
    }
    return false;
}

}  // namespace

Result<void> PrivateBus::start(const std::string& program) {
    const char* base = std::getenv("TMPDIR");
    std::string name =
        std::string(base != nullptr && *base == '/' ? base : "/tmp") + "/ipcbus-bench-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
        return fail_errno("mkdtemp");
    }
    directory_ = name;
    std::ofstream(config_path()) << config();
    const sys::UniqueFd notifications = IPCBUS_TRY(listen_to_notifications(notify_path()));
    const std::string found = program.empty() ? find_daemon() : program;
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) {
        return fail_errno("fork");
    }
    if (pid_ == 0) {
        become(found, parent);
    }
    pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidfd_) {
        return fail_errno("pidfd_open");
    }
    return wait_until_ready(notifications.get(), found);
}

Result<void> PrivateBus::wait_until_ready(int notifications, const std::string& program) {
    const sys::Deadline deadline = sys::Deadline::after(kStartNs);
    while (!deadline.passed() && tools::stop_signal() == 0) {
        pollfd events[] = {{notifications, POLLIN, 0}, {pidfd_.get(), POLLIN, 0}};
        (void)::poll(events, std::size(events), kLookMs);
        if (is_ready(notifications) || sys::connect_unix(socket_path(), 0).ok()) {
            return {};
        }
        if (reap(0)) {
            return fail(ECHILD, program + " ended: " + last_words());
        }
    }
    return fail(ETIMEDOUT, program + " cannot be connected to");
}

void PrivateBus::become(const std::string& program, pid_t parent) const {
    // A process group of its own: Ctrl-C is for the tool, which ends the daemon last.
    (void)::setpgid(0, 0);
    (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) {
        ::_exit(1);
    }
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        (void)::signal(signal, SIG_DFL);
    }
    const int log = ::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const int none = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (log < 0 || none < 0 || ::dup2(none, STDIN_FILENO) < 0 || ::dup2(log, STDOUT_FILENO) < 0 ||
        ::dup2(log, STDERR_FILENO) < 0) {
        ::_exit(1);
    }
    (void)::setenv("NOTIFY_SOCKET", notify_path().c_str(), 1);
    for (const char* name : {"WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"}) {
        (void)::unsetenv(name);
    }
    const std::string listen = address();
    const std::string config = config_path();
    ::execlp(program.c_str(), "ipcbusd", "-c", config.c_str(), "--listen", listen.c_str(), nullptr);
    std::fprintf(stderr, "cannot run it: %s\n", std::strerror(errno));
    (void)std::fflush(stderr);
    ::_exit(1);
}

std::string PrivateBus::last_words() const {
    std::ifstream log(log_path());
    std::string last;
    for (std::string line; std::getline(log, line);) {
        last = line;
    }
    return last.empty() ? "it said nothing" : last;
}

/// Whether it has ended within that time.
bool PrivateBus::reap(std::int64_t timeout_ns) {
    const sys::Deadline deadline = sys::Deadline::after(timeout_ns);
    while (pid_ > 0) {
        const pid_t ended = ::waitpid(pid_, nullptr, WNOHANG);
        if (ended == pid_ || (ended < 0 && errno == ECHILD)) {
            pid_ = -1;
        } else if (deadline.passed()) {
            return false;
        } else {
            pollfd end{pidfd_.get(), POLLIN, 0};
            (void)::poll(&end, 1, static_cast<int>(deadline.remaining_ns() / 1'000'000 + 1));
        }
    }
    return true;
}

void PrivateBus::stop() {
    if (pid_ > 0) {
        (void)::kill(pid_, SIGTERM);
        if (!reap(kStopNs)) {
            (void)::kill(pid_, SIGKILL);
            (void)reap(kStopNs);
        }
    }
    if (!directory_.empty()) {
        (void)::unlink(socket_path().c_str());
        (void)::unlink(notify_path().c_str());
        (void)::unlink(log_path().c_str());
        (void)::unlink(config_path().c_str());
        (void)::rmdir(directory_.c_str());
        directory_.clear();
    }
}

}  // namespace ipcbus::bench
