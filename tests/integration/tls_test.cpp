// SPDX-License-Identifier: Apache-2.0
// Goal: over TLS a client is a client; who is not to be believed is not, at either end, and both
// say why and what to do; certificates are renewed by a reload that nobody notices; whoever is
// silent, slow, or speaks something else is refused, and nobody else notices. (Local tests and
// those of remote clients run over TLS as they are: meson.build, tls_variant.cpp.) Method:
// certificates of the test's own authorities, in files; raw TCP.
#include "bus_client.hpp"
#include "certificates.hpp"
#include "daemon_fixture.hpp"
#include "remote_client.hpp"
#include "sys/tls_stream.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <utility>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

/// Files of a test, and daemons and clients that use them.
struct Place {
    Place() {
        put("ca.pem", authority.pem());
        put("clients.pem", clients.pem());
        install(authority.issue());
    }
    void put(const std::string& name, const std::string& text, mode_t mode = 0600) const {
        write_file(directory.file(name), text);
        REQUIRE(::chmod(directory.file(name).c_str(), mode) == 0);
    }
    void install(const Certificate& own, const std::string& stem = "server") const {
        put(stem + ".pem", own.certificate);
        put(stem + ".key", own.key);
    }
    [[nodiscard]] std::string file(const std::string& name) const { return directory.file(name); }
    /// A configuration with these files, `more` in [tcp].
    [[nodiscard]] std::string config(const std::string& more = "",
                                     const std::string& stem = "server") const {
        return "[tcp]\nlisten_tls = [\"127.0.0.1:0\"]\ncertificate = \"" + file(stem + ".pem") +
               "\"\nkey = \"" + file(stem + ".key") + "\"\n" + more;
    }
    [[nodiscard]] std::string asking(const std::string& mode) const {
        return config("client_ca = \"" + file("clients.pem") + "\"\nclient_certificates = \"" +
                      mode + "\"\n");
    }

    TempDir directory;
    Authority authority;
    Authority clients{"clients of the test"};
};

/// How a client connects; empty: not given.
struct How {
    std::string ca{};
    std::string certificate{};
    std::string key{};
    std::string name{};
};

struct Tried {
    int result = 0;
    std::string text;
    Bus bus;
};
Tried try_to(const std::string& address, const How& how) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    const auto text = [](const std::string& given) {
        return given.empty() ? nullptr : given.c_str();
    };
    options.address = address.c_str();
    options.ca_file = text(how.ca);
    options.certificate_file = text(how.certificate);
    options.key_file = text(how.key);
    options.server_name = text(how.name);
    options.timeout_ns = kLongNs;
    ipcbus_bus* bus = nullptr;
    Tried tried;
    tried.result = ipcbus_connect(&options, &bus);
    tried.text = tried.result == 0 ? "" : ipcbus_last_error();
    tried.bus.reset(bus);
    REQUIRE(is_documented(tried.result));
    return tried;
}

/// It connects, and what it publishes is heard.
void check_works(const DaemonFixture& daemon, const How& how) {
    const Tried tried = try_to(daemon.tls_address(), how);
    CHECK_MESSAGE(tried.result == 0, tried.text);
    if (tried.result == 0) {
        const Subscriber subscriber = subscribe(tried.bus, "works");
        const Publisher publisher = advertise(tried.bus, "works");
        wait_for_publications(subscriber, 1);
        publish(publisher, "it does");
        CHECK(received_text(subscriber) == "it does");
    }
}

void wait_for_log(DaemonFixture& daemon, const std::string& text) {
    const bool there = daemon.process().wait_for_output(text) != std::string::npos;
    CHECK_MESSAGE(there, text, " is not in: ", daemon.process().output());
}

/// Until the other end hangs up.
std::string answer_to(const std::string& address, std::string_view text) {
    const sys::UniqueFd socket = connect_raw(address);
    RemoteClient::say(socket, text);
    return RemoteClient::heard(socket);
}

}  // namespace

TEST_CASE("between a host and others, both ways, in order, of any size") {
    const Place place;
    const DaemonFixture daemon(place.config());
    const Bus here = connect("unix:" + daemon.socket_path());
    const Tried there = try_to(daemon.tls_address(), {.ca = place.file("ca.pem")});
    CHECK_MESSAGE(there.result == 0, there.text);
    REQUIRE(there.bus);
    for (const Bus* from : {&here, &there.bus}) {
        const Subscriber near = subscribe(here, "any/+");
        const Subscriber far = subscribe(there.bus, "any/+");
        const Publisher publisher = advertise(*from, "any/size", 1 << 20, -1);
        const auto text = [](std::size_t i) {
            return std::string(i % 7 == 0 ? i * 80 : i % 100, static_cast<char>('a' + i % 26));
        };
        std::thread publishing([&] {
            for (std::size_t i = 0; i < 2000; i++) {
                must(ipcbus_publish(publisher.get(), text(i).data(), text(i).size()), "publish");
            }
        });
        for (std::size_t i = 0; i < 2000; i++) {
            for (const Subscriber* subscriber : {&near, &far}) {
                const Received got = receive(*subscriber);
                REQUIRE(got.result == 0);
                REQUIRE(got.payload == text(i));
            }
        }
        publishing.join();
    }
}

TEST_CASE("a server that is not to be believed is not, and both ends say why") {
    Place place;
    Wanted wanted;
    How how{.ca = place.file("ca.pem")};
    std::string client_says;
    std::string log_says;
    SUBCASE("another authority") {
        how.ca = place.file("clients.pem");
        client_says = "authority that is not known here";
        log_says = "does not know the authority";
    }
    SUBCASE("the system's authorities") {
        how.ca = "";
        client_says = "authority that is not known here: name the file of the right one";
        log_says = "does not know the authority";
    }
    SUBCASE("another name") {
        how.name = "bus.example.org";
        client_says = "not for 'bus.example.org' but for DNS:localhost, IP:127.0.0.1";
        log_says = "does not believe our certificate";
    }
    SUBCASE("expired") {
        wanted.begins_s = -7200;
        wanted.ends_s = -3600;
        place.install(place.authority.issue(wanted));
        client_says = "has expired, on 2";
        log_says = "it has expired";
    }
    DaemonFixture daemon(place.config());
    const Tried tried = try_to(daemon.tls_address(), how);
    CHECK(tried.result == -EACCES);
    CHECK(has(tried.text, daemon.tls_address() + ": "));
    CHECK_MESSAGE(has(tried.text, client_says), tried.text);
    wait_for_log(daemon, log_says);
    if (wanted.ends_s < 0) {
        CHECK(has(daemon.process().output(), "has expired: clients will refuse it"));
    } else {
        check_works(daemon, {.ca = place.file("ca.pem")});
        check_works(daemon, {.ca = place.file("ca.pem"), .name = "localhost"});
    }
}

TEST_CASE("certificates of clients: who they are is what these say") {
    Place place;
    Wanted alice;
    alice.common_name = "alice";
    alice.names = "";
    place.install(place.clients.issue(alice), "alice");
    place.install(place.authority.issue(alice), "strange");
    alice.begins_s = -7200;
    alice.ends_s = -3600;
    place.install(place.clients.issue(alice), "late");
    const auto with = [&](const std::string& stem) {
        return How{place.file("ca.pem"), place.file(stem + ".pem"), place.file(stem + ".key"), ""};
    };
    const How nobody{.ca = place.file("ca.pem")};
    SUBCASE("none") {
        DaemonFixture daemon(place.config());
        check_works(daemon, nobody);
        check_works(daemon, with("alice"));  // nobody asks
        CHECK_FALSE(has(daemon.process().output(), "CN=alice"));
    }
    SUBCASE("optional") {
        DaemonFixture daemon("log.level = \"debug\"\n" + place.asking("optional"));
        check_works(daemon, nobody);
        CHECK_FALSE(has(daemon.process().output(), "'CN=alice'"));
        check_works(daemon, with("alice"));
        wait_for_log(daemon, "('CN=alice') is client");
        CHECK(try_to(daemon.tls_address(), with("strange")).result == -EACCES);
        wait_for_log(daemon, "tcp.client_ca has those that are");
        const Tried late = try_to(daemon.tls_address(), with("late"));
        CHECK(late.result == -EACCES);
        CHECK(has(late.text, "it has expired (--certificate-file"));
    }
    SUBCASE("required") {
        DaemonFixture daemon(place.asking("required"));
        const Tried tried = try_to(daemon.tls_address(), nobody);
        CHECK(tried.result == -EACCES);
        CHECK_MESSAGE(has(tried.text, "wants a certificate, and none was shown"), tried.text);
        wait_for_log(daemon, "which tcp.client_certificates requires");
        check_works(daemon, with("alice"));
    }
}

TEST_CASE("who shows a certificate needs no token; who does not, does") {
    Place place;
    Wanted alice;
    alice.common_name = "alice";
    place.install(place.clients.issue(alice), "alice");
    place.put("tokens", "bob 0123456789abcdef\n");
    place.put("token", "0123456789abcdef\n");
    place.put("wrong", "fedcba9876543210\n");
    DaemonFixture daemon("log.level = \"debug\"\n" + place.asking("optional") + "token_file = \"" +
                         place.file("tokens") + "\"\n");
    const How nobody{.ca = place.file("ca.pem")};
    const How certified{place.file("ca.pem"), place.file("alice.pem"), place.file("alice.key"), ""};
    check_works(daemon, certified);
    wait_for_log(daemon, "('CN=alice') is client 1");
    const Tried refused = try_to(daemon.tls_address(), nobody);
    CHECK(refused.result == -EACCES);
    CHECK(has(refused.text, "wants a token"));
    ::setenv("IPCBUS_TOKEN_FILE", place.file("token").c_str(), 1);
    check_works(daemon, nobody);
    wait_for_log(daemon, "('bob') is client");
    ::setenv("IPCBUS_TOKEN_FILE", place.file("wrong").c_str(), 1);
    CHECK(try_to(daemon.tls_address(), nobody).result == -EACCES);
    const std::size_t before = daemon.process().output().size();
    check_works(daemon, certified);
    CHECK(daemon.process().wait_for_output("('CN=alice') is client", before) != std::string::npos);
    ::unsetenv("IPCBUS_TOKEN_FILE");
    CHECK_FALSE(has(daemon.process().output(), "0123456789abcdef"));
    CHECK_FALSE(has(daemon.process().output(), "fedcba9876543210"));
}

TEST_CASE("limits are those of the certificate's subject") {
    Place place;
    Wanted wanted;
    for (const char* const name : {"alice", "bob"}) {
        wanted.common_name = name;
        place.install(place.clients.issue(wanted), name);
    }
    const DaemonFixture daemon(place.asking("required") + "[limits.per_uid]\nclients = 2\n");
    const auto as = [&](const std::string& stem) {
        return try_to(daemon.tls_address(), {place.file("ca.pem"), place.file(stem + ".pem"),
                                             place.file(stem + ".key"), ""});
    };
    const Tried one = as("alice");
    const Tried two = as("alice");
    REQUIRE(two.result == 0);
    const Tried three = as("alice");
    CHECK(three.result == -EDQUOT);
    CHECK(has(three.text, "limits.per_uid.clients"));
    CHECK(as("bob").result == 0);
}

TEST_CASE("plain text to the TLS port, TLS to the plain port, HTTP to either") {
    const Place place;
    DaemonFixture daemon(place.config());
    const std::string tls_port = daemon.tls_address().substr(4);
    const std::string plain_port = daemon.plain_address().substr(4);

    const Tried plain = try_to("tcp:" + tls_port, {});
    CHECK(plain.result == -EPROTO);
    CHECK_MESSAGE(has(plain.text, "this port speaks TLS"), plain.text);
    wait_for_log(daemon, "this port speaks TLS, and what came is plain text");

    const Tried sealed = try_to("tls:" + plain_port, {.ca = place.file("ca.pem")});
    CHECK(sealed.result == -EPROTO);
    CHECK_MESSAGE(has(sealed.text, "does not speak TLS"), sealed.text);
    wait_for_log(daemon, "this port is for plain text, and what came is TLS");

    for (const std::string& port : {tls_port, plain_port}) {
        const std::size_t before = daemon.process().output().size();
        const std::string answer = answer_to("tcp:" + port, "GET / HTTP/1.1\r\nHost: bus\r\n\r\n");
        CHECK(answer.starts_with("HTTP/1.0 400 "));
        CHECK(has(answer, "ipcbusd"));
        CHECK(daemon.process().wait_for_output("an HTTP request", before) != std::string::npos);
    }
    check_works(daemon, {.ca = place.file("ca.pem")});
}

TEST_CASE("an HTTP request inside TLS") {
    const Place place;
    const DaemonFixture daemon(place.config());
    auto context = sys::TlsContext::client({"ca", place.authority.pem()}, {}, {});
    REQUIRE(context.ok());
    auto stream = sys::TlsStream::connect(context.value(), "localhost");
    REQUIRE(stream.ok());
    sys::TlsStream& tls = *stream.value();
    const sys::UniqueFd socket = connect_raw(daemon.tls_address());
    const auto say = [&](std::string_view text) {
        const std::vector<std::byte> sealed =
            tls.seal(std::as_bytes(std::span(text.data(), text.size())));
        if (!sealed.empty()) {
            RemoteClient::say(socket,
                              {reinterpret_cast<const char*>(sealed.data()), sealed.size()});
        }
    };
    say("");
    std::vector<std::byte> heard;
    bool asked = false;
    while (!tls.ended()) {
        std::array<std::byte, 4096> bytes;
        pollfd wait{socket.get(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, kTimeoutMs) == 1);
        const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        REQUIRE(got > 0);
        REQUIRE(tls.feed(std::span(bytes).first(static_cast<std::size_t>(got)), heard).ok());
        say(tls.ready() && !std::exchange(asked, tls.ready()) ? "GET / HTTP/1.1\r\n\r\n" : "");
    }
    CHECK(std::string(reinterpret_cast<const char*>(heard.data()), heard.size())
              .starts_with("HTTP/1.0 400 "));
}

TEST_CASE("who is silent or slow in the handshake is hung up on in time") {
    const Place place;
    DaemonFixture daemon(place.config("handshake_timeout = \"300ms\"\n"));
    auto context = sys::TlsContext::client({"ca", place.authority.pem()}, {}, {});
    REQUIRE(context.ok());
    auto stream = sys::TlsStream::connect(context.value(), "localhost");
    REQUIRE(stream.ok());
    const std::vector<std::byte> hello = stream.value()->seal({});
    const sys::UniqueFd silent = connect_raw(daemon.tls_address());
    const sys::UniqueFd half = connect_raw(daemon.tls_address());
    RemoteClient::say(half, {reinterpret_cast<const char*>(hello.data()), hello.size() / 2});
    // A byte now and then puts nothing off.
    const sys::UniqueFd dripping = connect_raw(daemon.tls_address());
    std::size_t dripped = 0;
    pollfd hang_up{dripping.get(), POLLIN, 0};
    while (dripped < hello.size() && ::poll(&hang_up, 1, 5) == 0) {
        RemoteClient::say(dripping, {reinterpret_cast<const char*>(&hello[dripped++]), 1});
    }
    CHECK(dripped < hello.size());
    CHECK(hung_up(silent));
    CHECK(hung_up(half));
    CHECK(hung_up(dripping));
    // One that has shaken hands and does not greet.
    const sys::UniqueFd mute = connect_raw(daemon.tls_address());
    RemoteClient::say(mute, {reinterpret_cast<const char*>(hello.data()), hello.size()});
    CHECK(hung_up(mute));
    check_works(daemon, {.ca = place.file("ca.pem")});
    CHECK(has(daemon.process().output(), "no greeting in 300ms"));
}

TEST_CASE("a reload renews certificates, and who is connected goes on") {
    Place place;
    DaemonFixture daemon(place.config());
    const Bus here = connect("unix:" + daemon.socket_path());
    const How how{.ca = place.file("ca.pem")};
    const Tried streaming = try_to(daemon.tls_address(), how);
    REQUIRE(streaming.result == 0);
    const Subscriber far = subscribe(streaming.bus, "stream");
    const Publisher publisher = advertise(here, "stream", 65536, -1);
    wait_for_publications(far, 1);
    std::atomic<bool> over{false};
    std::atomic<std::uint64_t> published{0};
    std::thread publishing([&] {
        while (!over.load()) {
            must(ipcbus_publish(publisher.get(), "0123456789", 10), "publish");
            published++;
        }
    });
    std::uint64_t next = 1;
    const auto stream_some = [&] {
        for (int i = 0; i < 20'000; i++) {
            const Received got = receive(far);
            REQUIRE(got.result == 0);
            REQUIRE(got.message.sequence == next);
            next++;
        }
    };
    stream_some();
    // Another authority altogether: who comes now has to believe that one.
    const Authority renewed("renewed");
    place.put("renewed.pem", renewed.pem());
    place.install(renewed.issue());
    const std::string log = daemon.reload();
    CHECK_MESSAGE(has(log, "certificate in tcp.certificate: CN=localhost"), log);
    CHECK(has(log, "reloaded, 1 change"));
    stream_some();
    CHECK(try_to(daemon.tls_address(), how).result == -EACCES);
    check_works(daemon, {.ca = place.file("renewed.pem")});
    stream_some();
    // What is wrong changes nothing, and is said by file and line.
    place.put("server.key", place.authority.issue().key);
    std::string refused = daemon.reload();
    CHECK_MESSAGE(has(refused, "ipcbusd.toml:4:7: tcp.key: " + place.file("server.key") +
                                   ": it is not the key of the certificate"),
                  refused);
    CHECK(has(refused, "reload refused, the old configuration stays"));
    place.install(renewed.issue());
    place.put("server.key", renewed.issue().key, 0640);
    refused = daemon.reload();
    CHECK_MESSAGE(has(refused, "others than its owner can get at it: chmod 600 "), refused);
    place.install(renewed.issue());
    place.put("server.pem", "nonsense");
    refused = daemon.reload();
    CHECK_MESSAGE(has(refused, "ipcbusd.toml:3:15: tcp.certificate: "), refused);
    check_works(daemon, {.ca = place.file("renewed.pem")});
    stream_some();
    // From now on a certificate is wanted of clients; who is connected needs none.
    place.install(renewed.issue());
    daemon.write_config(place.asking("required"));
    CHECK(has(daemon.reload(), "tcp.client_certificates: \"none\" -> \"required\" (live)"));
    const Tried without = try_to(daemon.tls_address(), {.ca = place.file("renewed.pem")});
    CHECK(has(without.text, "none was shown"));
    stream_some();
    over.store(true);
    while (next <= published.load()) {
        REQUIRE(receive(far).message.sequence == next);
        next++;
    }
    publishing.join();
    CHECK(ipcbus_reconnects(streaming.bus.get()) == 0);
    CHECK(ipcbus_lost(far.get()) == 0);
    CHECK_FALSE(has(daemon.process().output(), "PRIVATE"));
}

TEST_CASE("what is wrong with the files keeps a daemon from starting, by line") {
    const Place place;
    const auto start = [&](const std::string& config) {
        write_file(place.file("bad.toml"), config);
        ChildProcess daemon =
            ChildProcess::run({daemon_program(), "-c", place.file("bad.toml"), "--check-config"});
        CHECK(daemon.wait() == 1);
        return daemon.output();
    };
    place.put("open.key", "", 0644);
    place.put("open.pem", place.authority.pem());
    CHECK(has(start(place.config("", "open")), "open.key: others than its owner can get at it"));
    CHECK(has(start("[tcp]\nlisten_tls = [4222]\n"), ":2:14: tcp.listen_tls: TLS needs a cert"));
    CHECK(has(start("[tcp]\nkey = \"/nowhere\"\n"), ":2:7: tcp.key: its certificate is missing"));
    CHECK(has(start(place.config("client_certificates = \"required\"\n")),
              ":5:23: tcp.client_certificates: the authorities that they are from are missing"));
    CHECK(has(start(place.config("client_ca = \"" + place.file("ca.pem") + "\"\n")),
              ":5:13: tcp.client_ca: nobody is asked"));
    CHECK(has(start("[tcp]\nclient_certificates = \"always\"\n"), "\"optional\" or \"required\""));
    CHECK(has(start("[tcp]\nlisten = [\"192.0.2.1:4222\"]\n"), "put it into listen_tls"));
    write_file(place.file("good.toml"),
               place.config().replace(6, 28, "listen_tls = [\"192.0.2.1:4222\"]"));
    ChildProcess good =
        ChildProcess::run({daemon_program(), "-c", place.file("good.toml"), "--check-config"});
    CHECK_MESSAGE(good.wait() == 0, good.output());  // beyond loopback, as it is sealed
}

TEST_CASE("the tools, by options and by the environment") {
    Place place;
    Wanted alice;
    alice.common_name = "alice";
    place.install(place.clients.issue(alice), "alice");
    const DaemonFixture daemon(place.asking("required"));
    const std::string cat = std::getenv("IPCBUS_TEST_CAT");
    const std::string pub = std::getenv("IPCBUS_TEST_PUB");
    ChildProcess reader = ChildProcess::run(
        {cat, "tools", "-C", "1", "--ready-fd", "2", "--address", daemon.tls_address(), "--ca-file",
         place.file("ca.pem"), "--certificate-file", place.file("alice.pem"), "--key-file",
         place.file("alice.key"), "--server-name", "localhost"});
    REQUIRE(reader.wait_for_output("\n") != std::string::npos);
    ChildProcess writer = ChildProcess::run(
        {pub, "tools", "-m", "sealed", "--wait-subs", "1"},
        {"IPCBUS_ADDRESS=" + daemon.tls_address(), "IPCBUS_CA_FILE=" + place.file("ca.pem"),
         "IPCBUS_CERTIFICATE_FILE=" + place.file("alice.pem"),
         "IPCBUS_KEY_FILE=" + place.file("alice.key"), "IPCBUS_SERVER_NAME=127.0.0.1"});
    CHECK(writer.wait() == 0);
    CHECK(reader.wait() == 0);
    const auto refused = [&](const std::vector<std::string>& more, int code,
                             const std::string& text) {
        std::vector<std::string> command{pub, "tools", "-m", "x"};
        command.insert(command.end(), more.begin(), more.end());
        ChildProcess process = ChildProcess::run(command);
        CHECK(process.wait() == code);
        CHECK_MESSAGE(has(process.output(), text), process.output());
    };
    refused({"--address", daemon.tls_address()}, 4, "--ca-file, IPCBUS_CA_FILE");
    refused({"--address", daemon.tls_address(), "--ca-file", place.file("ca.pem")}, 4,
            "(--certificate-file and --key-file");
    refused({"--address", daemon.tls_address(), "--ca-file", place.file("none.pem")}, 3,
            "CA file: " + place.file("none.pem") + ": No such file");
    refused({"--address", daemon.tls_address(), "--key-file", place.file("alice.key")}, 2,
            "a key needs its certificate");
    refused({"--address", daemon.plain_address(), "--ca-file", place.file("ca.pem")}, 2,
            "are for tls:HOST:PORT");
    place.put("alice.key", "", 0644);
    refused({"--address", daemon.tls_address(), "--certificate-file", place.file("alice.pem"),
             "--key-file", place.file("alice.key")},
            4, "chmod 600");
}

TEST_CASE("a client too many is told so inside TLS, or by an alert") {
    const Place place;
    const How how{.ca = place.file("ca.pem")};
    {
        const DaemonFixture daemon(place.config("clients = 1\n"));
        const Tried first = try_to(daemon.tls_address(), how);
        REQUIRE(first.result == 0);
        const Tried second = try_to(daemon.tls_address(), how);
        CHECK(second.result == -EDQUOT);
        CHECK_MESSAGE(has(second.text, "raise tcp.clients"), second.text);
    }
    DaemonFixture daemon(place.config("[limits.per_uid]\nclients = 1\n"));
    const Tried first = try_to(daemon.tls_address(), how);
    REQUIRE(first.result == 0);
    const Tried second = try_to(daemon.tls_address(), how);
    CHECK(second.result == -EPROTO);
    CHECK_MESSAGE(has(second.text, "refused the connection: its log says why"), second.text);
    wait_for_log(daemon, "limits.per_uid.clients");
}

TEST_CASE("another daemon at the same place: over TLS both go on there") {
    const Place place;
    write_file(place.file("bus.toml"), place.config());
    const auto start = [&](const std::string& listen, std::string& ret_address) {
        ChildProcess daemon =
            ChildProcess::run({daemon_program(), "-c", place.file("bus.toml"), "--listen",
                               "unix:" + place.file("bus.sock"), "--listen", listen});
        REQUIRE(daemon.wait_for_output("listening on unix") != std::string::npos);
        const std::size_t at = daemon.output().find("tls:");
        ret_address = daemon.output().substr(at, daemon.output().find('\n', at) - at);
        return daemon;
    };
    std::string address;
    ChildProcess first = start("tls:127.0.0.1:0", address);
    const Tried there = try_to(address, {.ca = place.file("ca.pem")});
    REQUIRE(there.result == 0);
    const Subscriber subscriber = subscribe(there.bus, "again");
    const Publisher publisher = advertise(there.bus, "again");
    wait_for_publications(subscriber, 1);
    publish(publisher, "before");
    CHECK(received_text(subscriber) == "before");
    first.signal(SIGKILL);
    (void)first.wait();
    ChildProcess second = start(address, address);
    bool after = false;
    for (int i = 0; i < 2000 && !after; i++) {
        publish(publisher, "after");
        after = receive(subscriber, 10 * kMillisecondNs).result == 0;
    }
    CHECK(after);
    CHECK(ipcbus_reconnects(there.bus.get()) == 1);
    second.signal(SIGTERM);
    CHECK(second.wait() == 0);
}
