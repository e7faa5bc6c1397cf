// SPDX-License-Identifier: Apache-2.0
// TCP sockets. See tcp.hpp.
#include "sys/tcp.hpp"

#include "sys/clock.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>

namespace ipcbus::sys {

namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
/// Of the time until a silent peer is dead, after so long it is asked, so many times.
constexpr int kProbes = 3;
/// And of those by which TCP asks for room, or sends again, so many without an answer are a sign.
constexpr int kUnansweredMin = 2;

Error fail_at(const TcpEndpoint& endpoint, int code) {
    return fail(code, "tcp:" + endpoint.text() + ": " + std::strerror(code));
}

std::string name_of(const sockaddr_storage& address, socklen_t bytes, bool with_port) {
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), bytes, host, sizeof host, port,
                      sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return "?";
    }
    if (!with_port) {
        return host;
    }
    std::uint16_t number = 0;
    (void)std::from_chars(port, port + std::strlen(port), number);
    return TcpEndpoint{host, number}.text();
}

/// 0, or why not.
int connect_once(int socket, const addrinfo& address, std::int64_t timeout_ns, int kick) {
    if (::connect(socket, address.ai_addr, address.ai_addrlen) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS) {
        return errno;
    }
    const Deadline deadline = Deadline::after(timeout_ns);
    pollfd waits[2] = {{socket, POLLOUT, 0}, {kick, POLLIN, 0}};
    for (;;) {
        const std::int64_t left_ns = deadline.remaining_ns();
        const int ready = ::poll(waits, 2, static_cast<int>((left_ns + 999'999) / 1'000'000));
        if (ready > 0 && waits[1].revents != 0) {
            return ECANCELED;
        }
        if (ready > 0) {
            break;
        }
        if (ready == 0 || (errno == EINTR && left_ns == 0)) {
            return ETIMEDOUT;
        }
        if (errno != EINTR) {
            return errno;
        }
    }
    int code = 0;
    socklen_t bytes = sizeof code;
    return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &bytes) == 0 ? code : errno;
}

}  // namespace

std::string TcpEndpoint::text() const {
    const bool brackets = host.find(':') != std::string::npos;
    return (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<TcpEndpoint> parse_endpoint(const std::string& text, bool any_port) {
    TcpEndpoint endpoint;
    std::string port = text;
    if (const std::size_t colon = text.rfind(':'); colon != std::string::npos) {
        endpoint.host = text.substr(0, colon);
        port = text.substr(colon + 1);
        const bool bracketed =
            endpoint.host.size() > 2 && endpoint.host.front() == '[' && endpoint.host.back() == ']';
        if (bracketed) {
            endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
        } else if (endpoint.host.find_first_of(":[]") != std::string::npos) {
            return fail(EINVAL,
                        "an IPv6 address is written in brackets: [::1]:PORT, not \"" + text + "\"");
        }
        if (endpoint.host.empty() || endpoint.host.find('\0') != std::string::npos) {
            return fail(EINVAL, "the host is missing: HOST:PORT, not \"" + text + "\"");
        }
    }
    const auto parsed = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
    if (port.empty() || parsed.ec != std::errc{} || parsed.ptr != port.data() + port.size() ||
        (endpoint.port == 0 && !any_port)) {
        return fail(EINVAL, "a port is a number from 1 to 65535: HOST:PORT, not \"" + text + "\"");
    }
    return endpoint;
}

bool is_loopback(const std::string& host) {
    in_addr four{};
    in6_addr six{};
    if (host.empty()) {
        return true;
    }
    if (::inet_pton(AF_INET, host.c_str(), &four) == 1) {
        return (ntohl(four.s_addr) >> 24) == 127;
    }
    return ::inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

Result<TcpAddresses> look_up(const TcpEndpoint& endpoint) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const std::string port = std::to_string(endpoint.port);
    const int code = ::getaddrinfo(endpoint.host.empty() ? nullptr : endpoint.host.c_str(),
                                   port.c_str(), &hints, &found);
    if (code != 0) {
        return fail(code == EAI_MEMORY  ? ENOMEM
                    : code == EAI_AGAIN ? EAGAIN
                                        : EHOSTUNREACH,
                    endpoint.text() + ": " + ::gai_strerror(code));
    }
    return TcpAddresses(found);
}

Result<std::vector<UniqueFd>> listen_tcp(const TcpEndpoint& endpoint, int backlog) {
    const TcpAddresses addresses = IPCBUS_TRY(look_up(endpoint));
    std::vector<UniqueFd> sockets;
    int first_fault = EADDRNOTAVAIL;
    for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
        UniqueFd fd(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int on = 1;
        // An IPv6 socket for IPv6 alone: each address of a name gets a socket of its own.
        if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
            (one->ai_family == AF_INET6 &&
             ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) != 0) ||
            ::bind(fd.get(), one->ai_addr, one->ai_addrlen) != 0 ||
            ::listen(fd.get(), backlog) != 0) {
            // Without IPv6 on this host, what was named by a number or a name has an IPv4 address.
            if (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL) {
                first_fault = errno;
                continue;
            }
            return fail_at(endpoint, errno);
        }
        sockets.push_back(std::move(fd));
        if (endpoint.port == 0) {
            break;  // one number for one socket
        }
    }
    if (sockets.empty()) {
        return fail_at(endpoint, first_fault);
    }
    return sockets;
}

Result<UniqueFd> connect_tcp(const TcpEndpoint& endpoint, const TcpAddresses& addresses,
                             std::int64_t timeout_ns, int kick) {
    std::int64_t left = 0;
    for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
        left++;
    }
    const Deadline deadline = Deadline::after(timeout_ns);
    int code = ECONNREFUSED;
    for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next, left--) {
        UniqueFd fd(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!fd) {
            code = errno;
            continue;
        }
        code = connect_once(fd.get(), *one, deadline.remaining_ns() / left, kick);
        if (code == 0) {
            return fd;
        }
        if (code == ECANCELED) {
            break;
        }
    }
    return fail_at(endpoint, code);
}

Result<void> set_tcp_options(int socket, std::int64_t dead_ns) {
    const int on = 1;
    const int probe_s =
        static_cast<int>(std::max<std::int64_t>(dead_ns / kSecondNs / (kProbes + 1), 1));
    const int probes = kProbes;
    if (::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
        ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0 ||
        ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &probe_s, sizeof probe_s) != 0 ||
        ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &probe_s, sizeof probe_s) != 0 ||
        ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes) != 0) {
        return fail_errno("setsockopt of a TCP socket");
    }
    return {};
}

bool peer_is_dead(int socket, std::int64_t dead_ns) {
    tcp_info info{};
    socklen_t bytes = sizeof info;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) {
        return false;  // then a receive says what is the matter
    }
    const bool asked =
        info.tcpi_retransmits >= kUnansweredMin || info.tcpi_probes >= kUnansweredMin;
    return asked && std::int64_t{info.tcpi_last_ack_recv} * 1'000'000 >= dead_ns;
}

std::string tcp_name(int socket, bool own) {
    sockaddr_storage address{};
    socklen_t bytes = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    const int got =
        own ? ::getsockname(socket, plain, &bytes) : ::getpeername(socket, plain, &bytes);
    return got == 0 ? name_of(address, bytes, true) : "?";
}

std::string tcp_peer_host(int socket) {
    sockaddr_storage address{};
    socklen_t bytes = sizeof address;
    if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
        return "?";
    }
    auto& six = reinterpret_cast<sockaddr_in6&>(address).sin6_addr;
    const bool network = address.ss_family == AF_INET6 && !IN6_IS_ADDR_LOOPBACK(&six);
    if (network) {
        std::memset(&six.s6_addr[8], 0, 8);
    }
    return name_of(address, bytes, false) + (network ? "/64" : "");
}

}  // namespace ipcbus::sys
