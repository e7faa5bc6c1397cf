// SPDX-License-Identifier: Apache-2.0
// The bridge as the library holds it: its thread, connecting, its end. See bridge.hpp.
#include "bridge.hpp"

#include "bridge_worker.hpp"
#include "sys/clock.hpp"
#include "sys/fork_closed_fd.hpp"
#include "sys/tls_stream.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using sys::fail;
using sys::Result;

namespace {

/// A daemon that does not answer for so long is dead to us.
constexpr std::int64_t kDeadNs = 30'000'000'000;
constexpr std::size_t kTokenFileBytesMax = 4096;

/// A failure is a hang-up, which the next receive finds, behind what was said before it.
void send_all(int socket, std::span<const std::byte> bytes, const sys::Deadline& deadline) {
    while (!bytes.empty() && !deadline.passed()) {
        const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            pollfd wait{socket, POLLOUT, 0};
            (void)::poll(&wait, 1, static_cast<int>(deadline.remaining_ns() / 1'000'000) + 1);
        } else if (sent < 0 && errno != EINTR) {
            return;
        }
        bytes = bytes.subspan(sent > 0 ? static_cast<std::size_t>(sent) : 0);
    }
}

/// What came over TLS, for `reader`; what that has to answer goes out, and once it is known to
/// whom, `greeting`.
Result<void> hear(int socket, sys::TlsStream& tls, std::span<const std::byte> bytes,
                  std::vector<std::byte>& greeting, FrameReader& reader,
                  const sys::Deadline& deadline) {
    std::vector<std::byte> plain;
    Result<void> fed = tls.feed(bytes, plain);
    if (tls.ready()) {
        send_all(socket, tls.seal(std::exchange(greeting, {})), deadline);
    } else {
        send_all(socket, tls.seal({}), deadline);
    }
    reader.add(plain);
    return fed;
}

/// LOGIN, REPLACES, HELLO, and the answer.
Result<protocol::Welcome> greet(int socket, int kick, const BridgeOptions& options,
                                FrameReader& reader, sys::TlsStream* tls) {
    std::vector<std::byte> out;
    if (!options.token.empty()) {
        protocol::encode(out, protocol::Login{options.token}, 1);
    }
    if (options.earlier.client != 0) {
        protocol::encode(out, options.earlier, 3);
    }
    protocol::Hello hello;
    hello.name = options.name;
    protocol::encode(out, hello, 2);
    const sys::Deadline deadline = sys::Deadline::after(options.answer_timeout_ns);
    const auto address = [&] {
        return std::string(tls != nullptr ? "tls:" : "tcp:") + options.endpoint.text() + ": ";
    };
    send_all(socket, tls != nullptr ? tls->seal({}) : std::exchange(out, {}), deadline);
    const sys::Error no_daemon = fail(EPROTO, "what answers there is no ipcbusd");
    std::array<std::byte, protocol::kFrameBytesMax> bytes;
    for (;;) {
        FrameHeader header;
        std::span<const std::byte> fields;
        switch (reader.next(header, fields)) {
        case FrameReader::Status::malformed:
            return no_daemon;
        case FrameReader::Status::frame: {
            protocol::Welcome welcome;
            protocol::ErrorFrame error;
            if (header.type == FrameType::welcome && protocol::decode(fields, welcome) &&
                welcome.geometry.valid()) {
                return welcome;
            }
            if (header.type == FrameType::error && protocol::decode(fields, error) &&
                error.code != 0 && error.code < 4096) {
                return fail(static_cast<int>(error.code), error.text);
            }
            return no_daemon;
        }
        case FrameReader::Status::need_more:
            break;
        }
        pollfd waits[2] = {{socket, POLLIN, 0}, {kick, POLLIN, 0}};
        const std::int64_t left_ns = deadline.remaining_ns();
        if (left_ns == 0) {
            return fail(ETIMEDOUT, "the daemon does not answer");
        }
        (void)::poll(waits, 2, static_cast<int>(left_ns / 1'000'000) + 1);
        if (waits[1].revents != 0) {
            return fail(ECANCELED, "given up");
        }
        const ssize_t got = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
        const auto said =
            std::span(bytes).first(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
        if (got == 0 || (got < 0 && errno == ECONNRESET) || (tls != nullptr && tls->ended())) {
            return fail(ECONNREFUSED, "the daemon closed the connection before it answered");
        }
        if (tls == nullptr) {
            reader.add(said);
        } else if (auto heard = hear(socket, *tls, said, out, reader, deadline); !heard.ok()) {
            return fail(heard.error().code, address() + heard.error().what);
        }
    }
}

}  // namespace

/// What the thread works with and its owner looks at.
struct Bridge::Dial {
    void set(State now) {
        const std::lock_guard guard(mutex);
        state = now;
        changed.notify_all();
    }
    void run();
    Result<void> work();
    Result<sys::UniqueFd> connect();

    BridgeOptions options;
    sys::ForkClosedFd kick;  ///< readable: end now
    std::mutex mutex;
    std::condition_variable changed;
    // Under the lock:
    State state = State::dialling;
    sys::Error why;
    sys::UniqueFd library_end;
    bool looking_up = false;  ///< which looks at no kick
    bool given_up = false;
};

Bridge::Bridge(std::shared_ptr<Dial> dial) : process_(::getpid()), dial_(std::move(dial)) {}

Result<std::shared_ptr<Bridge>> Bridge::dial(BridgeOptions options) {
    auto dial = std::make_shared<Dial>();
    dial->options = std::move(options);
    dial->kick.reset(sys::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
    if (!dial->kick) {
        return sys::fail_errno("eventfd");
    }
    std::shared_ptr<Bridge> bridge(new Bridge(dial));
    // The program's signals are not for this thread.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    (void)::pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = 0;
    try {
        bridge->thread_ = std::thread([dial] { dial->run(); });
    } catch (const std::system_error& error) {
        code = error.code().value();
    }
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (code != 0) {
        return fail(code, std::string("a thread cannot be started: ") + std::strerror(code));
    }
    return bridge;
}

Bridge::~Bridge() {
    if (thread_.joinable() && in_child()) {
        (void)new std::thread(std::move(thread_));  // the parent's
        (void)new std::shared_ptr<Dial>(std::move(dial_));
    }
    if (!thread_.joinable()) {
        return;
    }
    const std::uint64_t one = 1;
    (void)!::write(dial_->kick.get(), &one, sizeof one);
    bool held_up = false;
    {
        const std::lock_guard guard(dial_->mutex);
        dial_->given_up = true;
        held_up = dial_->looking_up;
    }
    if (held_up) {
        thread_.detach();
    } else {
        thread_.join();
    }
}

bool Bridge::in_child() const { return ::getpid() != process_; }

Bridge::State Bridge::wait(State while_state, std::int64_t timeout_ns) {
    std::unique_lock guard(dial_->mutex);
    const auto changed = [&] { return dial_->state != while_state; };
    if (timeout_ns < 0 || timeout_ns == sys::kForeverNs) {
        dial_->changed.wait(guard, changed);
    } else {
        (void)dial_->changed.wait_for(guard, std::chrono::nanoseconds(timeout_ns), changed);
    }
    return dial_->state;
}

sys::Error Bridge::why() {
    const std::lock_guard guard(dial_->mutex);
    return dial_->why;
}

sys::UniqueFd Bridge::take_socket() {
    const std::lock_guard guard(dial_->mutex);
    return std::move(dial_->library_end);
}

void Bridge::wait_end(std::int64_t timeout_ns) { (void)wait(State::ready, timeout_ns); }

void Bridge::Dial::run() {
    Result<void> worked = fail(ENOMEM, "out of memory");
    try {
        worked = work();
    } catch (const std::bad_alloc&) {
        // the library sees a hang-up
    }
    if (!worked.ok()) {
        const std::lock_guard guard(mutex);
        why = std::move(worked.error());
        state = state == State::ready ? State::ended : State::failed;
        library_end.reset();
        changed.notify_all();
        return;
    }
    set(State::ended);
}

Result<sys::UniqueFd> Bridge::Dial::connect() {
    const auto look_up_begins = [this](bool begins) {
        const std::lock_guard guard(mutex);
        looking_up = begins;
        return !given_up;
    };
    if (!look_up_begins(true)) {
        return fail(ECANCELED, "given up");
    }
    auto addresses = sys::look_up(options.endpoint);
    if (!look_up_begins(false)) {
        return fail(ECANCELED, "given up");
    }
    return sys::connect_tcp(options.endpoint, IPCBUS_TRY(std::move(addresses)),
                            options.connect_timeout_ns, kick.get());
}

Result<void> Bridge::Dial::work() {
    // A forked child would keep them open, and is no client itself.
    sys::ForkClosedFd tcp;
    tcp.reset(IPCBUS_TRY(connect()));
    IPCBUS_TRY(sys::set_tcp_options(tcp.get(), kDeadNs));
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return sys::fail_errno("socketpair");
    }
    sys::ForkClosedFd own_end;
    own_end.reset(sys::UniqueFd(pair[0]));
    {
        const std::lock_guard guard(mutex);
        library_end.reset(pair[1]);
        state = State::greeting;
        changed.notify_all();
    }
    FrameReader reader;
    std::unique_ptr<sys::TlsStream> tls;
    if (options.tls) {
        tls = IPCBUS_TRY(sys::TlsStream::connect(options.tls, options.server_name));
    }
    const protocol::Welcome welcome =
        IPCBUS_TRY(greet(tcp.get(), kick.get(), options, reader, tls.get()));
    BridgeWorker worker(tcp.get(), own_end.get(), kick.get(), welcome, std::move(reader), kDeadNs,
                        std::move(tls));
    IPCBUS_TRY(worker.make_pages());
    set(State::ready);
    worker.run();
    return {};
}

// --------------------------------------------------------------------------------------- token

Result<std::string> token_from_environment() {
    const char* const path = ::secure_getenv("IPCBUS_TOKEN_FILE");
    if (path == nullptr || *path == '\0') {
        return std::string();
    }
    const std::string name = std::string("IPCBUS_TOKEN_FILE: ") + path;
    // A FIFO would hold up whoever opens it.
    const sys::UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        return fail(errno, name + ": " + std::strerror(errno));
    }
    if (S_ISREG(status.st_mode) && (status.st_mode & 077) != 0) {
        return fail(EACCES, name + ": others than its owner can get at it: chmod 600 " + path);
    }
    std::string text(kTokenFileBytesMax, '\0');
    const ssize_t got = ::read(fd.get(), text.data(), text.size());
    if (got < 0) {
        return fail(errno, name + ": " + std::strerror(errno));
    }
    if (static_cast<std::size_t>(got) == kTokenFileBytesMax) {
        return fail(EINVAL, name + ": a file with a token has less than 4096 bytes");
    }
    text.resize(static_cast<std::size_t>(got));
    constexpr const char* kBlank = " \t\r";
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::string line = text.substr(begin, end - begin);
        begin = end + 1;
        const std::size_t first = line.find_first_not_of(kBlank);
        if (first == std::string::npos || line[first] == '#') {
            continue;
        }
        const std::size_t last = line.find_last_not_of(kBlank);
        const std::size_t blank = line.find_last_of(kBlank, last);
        const std::size_t word = blank == std::string::npos ? 0 : blank + 1;
        std::string token = line.substr(word, last + 1 - word);
        if (token.size() > protocol::kLoginTokenBytesMax) {
            return fail(EINVAL, name + ": a token has at most 256 bytes");
        }
        return token;
    }
    return fail(EINVAL, name + ": there is no token in it");
}

}  // namespace ipcbus::client
