// SPDX-License-Identifier: Apache-2.0
// Goal: two ends that believe each other hear each other, however the bytes between them are cut;
// whoever is not to be believed is not, and both ends learn why; whatever else comes ends the
// stream with a clear error, bounded in bytes and in memory. Method: both ends in one test, over
// memory; certificates of the test's own authorities.
#include "sys/tls_stream.hpp"

#include "certificates.hpp"

#include <doctest/doctest.h>
#include <malloc.h>
#include <openssl/ssl.h>

#include <random>

using namespace ipcbus;
using namespace ipcbus::sys;
using test::Authority;
using test::Certificate;
using test::Wanted;

namespace {

using Bytes = std::vector<std::byte>;
using Context = std::shared_ptr<const TlsContext>;

Bytes bytes_of(std::string_view text) {
    const auto* const begin = reinterpret_cast<const std::byte*>(text.data());
    return {begin, begin + text.size()};
}

std::string text_of(const Bytes& bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Context server_context(const Certificate& own, const Authority* clients = nullptr,
                       ClientCertificates mode = ClientCertificates::none) {
    auto made =
        TlsContext::server({"certificate", own.certificate}, {"key", own.key},
                           clients == nullptr ? TlsFile{} : TlsFile{"ca", clients->pem()}, mode);
    INFO((made.ok() ? "" : made.error().what));
    REQUIRE(made.ok());
    return made.value();
}

Context client_context(const Authority& servers, const Certificate* own = nullptr) {
    auto made =
        TlsContext::client({"ca", servers.pem()},
                           own == nullptr ? TlsFile{} : TlsFile{"certificate", own->certificate},
                           own == nullptr ? TlsFile{} : TlsFile{"key", own->key});
    INFO((made.ok() ? "" : made.error().what));
    REQUIRE(made.ok());
    return made.value();
}

/// Both ends, and what each has heard.
struct Ends {
    Ends(const Context& server_side, const Context& client_side,
         const std::string& name = "localhost") {
        auto accepted = TlsStream::accept(server_side);
        REQUIRE(accepted.ok());
        server = std::move(accepted).value();
        auto connected = TlsStream::connect(client_side, name);
        REQUIRE(connected.ok());
        client = std::move(connected).value();
    }

    /// Moves what is due, `cut` bytes at a time, until nothing is or one end has failed.
    void run(std::size_t cut = ~std::size_t{0}) {
        while (client->due() || server->due()) {
            move(*client, *server, heard_by_server, cut);
            move(*server, *client, heard_by_client, cut);
        }
    }
    static void move(TlsStream& from, TlsStream& to, Bytes& heard, std::size_t cut) {
        const Bytes sealed = from.seal({});
        deliver(sealed, to, heard, cut);
    }
    static void deliver(std::span<const std::byte> sealed, TlsStream& to, Bytes& heard,
                        std::size_t cut = ~std::size_t{0}) {
        while (!sealed.empty()) {
            const std::size_t some = std::min(cut, sealed.size());
            if (!to.feed(sealed.first(some), heard).ok()) {
                return;
            }
            sealed = sealed.subspan(some);
        }
    }
    void say_to_server(const Bytes& plain, std::size_t cut = ~std::size_t{0}) {
        deliver(client->seal(plain), *server, heard_by_server, cut);
    }
    void say_to_client(const Bytes& plain, std::size_t cut = ~std::size_t{0}) {
        deliver(server->seal(plain), *client, heard_by_client, cut);
    }

    std::unique_ptr<TlsStream> server;
    std::unique_ptr<TlsStream> client;
    Bytes heard_by_server;
    Bytes heard_by_client;
};

/// A client that does what OpenSSL can be made to do.
struct RawClient {
    RawClient() {
        context.reset(SSL_CTX_new(TLS_client_method()));
        ssl.reset(SSL_new(context.get()));
        SSL_set_connect_state(ssl.get());
        SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    }
    void hear(const Bytes& bytes) const {
        (void)BIO_write(SSL_get_rbio(ssl.get()), bytes.data(), static_cast<int>(bytes.size()));
    }
    [[nodiscard]] Bytes said() const {
        Bytes bytes(1 << 20);
        const int count = BIO_read(SSL_get_wbio(ssl.get()), bytes.data(), 1 << 20);
        bytes.resize(static_cast<std::size_t>(std::max(count, 0)));
        return bytes;
    }
    std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{nullptr, SSL_CTX_free};
    std::unique_ptr<SSL, decltype(&SSL_free)> ssl{nullptr, SSL_free};
};

int code(const TlsStream& stream) { return stream.error() ? stream.error()->code : 0; }
std::string why(const TlsStream& stream) { return stream.error() ? stream.error()->what : ""; }
bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE_BEGIN("tls_stream");

TEST_CASE("what one says the other hears, however it is cut") {
    const Authority authority;
    const Context server = server_context(authority.issue());
    const Context client = client_context(authority);
    std::string all;
    for (int i = 0; i < 20'000; i++) {
        all += std::to_string(i);
    }
    for (const std::size_t cut : {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{7},
                                  std::size_t{100}, std::size_t{16'389}, ~std::size_t{0}}) {
        CAPTURE(cut);
        Ends ends(server, client);
        CHECK_FALSE(ends.server->ready());
        ends.run(cut);
        REQUIRE(ends.server->ready());
        REQUIRE(ends.client->ready());
        CHECK(ends.server->peer().empty());
        CHECK(ends.client->peer() == "CN=localhost");
        ends.say_to_server(bytes_of(all), cut);
        ends.say_to_client(bytes_of("short"), cut);
        CHECK(text_of(ends.heard_by_server) == all);
        CHECK(text_of(ends.heard_by_client) == "short");
        ends.client->close();
        CHECK_FALSE(ends.server->ended());
        ends.run(cut);
        CHECK(ends.server->ended());
        CHECK_FALSE(ends.server->error());
    }
}

TEST_CASE("every cut of a handshake in two") {
    const Authority authority;
    const Context server = server_context(authority.issue());
    const Context client = client_context(authority);
    std::size_t longest = 1;
    for (std::size_t cut = 1; cut < longest + 2; cut++) {
        Ends ends(server, client);
        const auto in_two = [&](TlsStream& from, TlsStream& to, Bytes& heard) {
            const Bytes sealed = from.seal({});
            longest = std::max(longest, sealed.size());
            const std::size_t first = std::min(cut, sealed.size());
            Ends::deliver(std::span(sealed).first(first), to, heard);
            Ends::deliver(std::span(sealed).subspan(first), to, heard);
        };
        in_two(*ends.client, *ends.server, ends.heard_by_server);
        in_two(*ends.server, *ends.client, ends.heard_by_client);
        in_two(*ends.client, *ends.server, ends.heard_by_server);
        REQUIRE(ends.client->ready());
        REQUIRE(ends.server->ready());
        cut += cut > 300 ? 7 : 0;
    }
}

TEST_CASE("nothing of it is readable, nor twice the same") {
    const Authority authority;
    Ends ends(server_context(authority.issue()), client_context(authority));
    ends.run();
    const Bytes first = ends.client->seal(bytes_of("the secret"));
    const Bytes second = ends.client->seal(bytes_of("the secret"));
    CHECK_FALSE(has(text_of(first), "secret"));
    CHECK(first != second);
    // Said again by somebody else, it is no record of this connection.
    Ends::deliver(first, *ends.server, ends.heard_by_server);
    CHECK(text_of(ends.heard_by_server) == "the secret");
    Ends::deliver(first, *ends.server, ends.heard_by_server);
    CHECK(code(*ends.server) == EPROTO);
    CHECK(text_of(ends.heard_by_server) == "the secret");
}

TEST_CASE("a server that is not to be believed is not, and both learn why") {
    const Authority authority;
    const Authority another("somebody else");
    Wanted wanted;
    const Authority* believed = &authority;
    std::string name = "localhost";
    std::string client_says;
    std::string server_hears;
    SUBCASE("unknown authority") {
        believed = &another;
        client_says = "not known here: name the file of the right one";
        server_hears = "does not know the authority";
    }
    SUBCASE("another name") {
        name = "bus.example.org";
        client_says = "is not for 'bus.example.org' but for DNS:localhost, IP:127.0.0.1";
        server_hears = "does not believe our certificate";
    }
    SUBCASE("another address") {
        name = "192.0.2.1";
        client_says = "is not for '192.0.2.1' but for DNS:localhost";
        server_hears = "does not believe our certificate";
    }
    SUBCASE("the subject is no name") {
        wanted.names = "";
        client_says = "no name (subjectAltName)";
        server_hears = "does not believe our certificate";
    }
    SUBCASE("expired") {
        wanted.begins_s = -7200;
        wanted.ends_s = -3600;
        client_says = "has expired, on 2";
        server_hears = "it has expired";
    }
    SUBCASE("not yet") {
        wanted.begins_s = 3600;
        wanted.ends_s = 7200;
        client_says = "look at the clocks";
        server_hears = "does not believe our certificate";
    }
    SUBCASE("meant for clients") {
        wanted.purposes = "clientAuth";
        client_says = "is not for a server";
        server_hears = "does not believe our certificate";
    }
    Ends ends(server_context(authority.issue(wanted)), client_context(*believed), name);
    ends.run();
    CHECK_FALSE(ends.client->ready());
    CHECK(code(*ends.client) == EACCES);
    CHECK_MESSAGE(has(why(*ends.client), client_says), why(*ends.client));
    CHECK_FALSE(ends.server->ready());
    CHECK_MESSAGE(has(why(*ends.server), server_hears), why(*ends.server));
    Bytes heard;
    CHECK_FALSE(ends.client->feed(bytes_of("x"), heard).ok());  // and stays so
}

TEST_CASE("names of the server: by number, by wildcard") {
    const Authority authority;
    Wanted wanted;
    wanted.names = "DNS:*.example.org,IP:192.0.2.1,IP:2001:db8::1";
    const Context server = server_context(authority.issue(wanted));
    const Context client = client_context(authority);
    for (const char* const name : {"bus.example.org", "192.0.2.1", "2001:db8::1"}) {
        CAPTURE(name);
        Ends ends(server, client, name);
        ends.run();
        CHECK(ends.client->ready());
        CHECK(ends.server->ready());
    }
    for (const char* const name : {"a.bus.example.org", "example.org", "2001:db8::2"}) {
        CAPTURE(name);
        Ends ends(server, client, name);
        ends.run();
        CHECK(code(*ends.client) == EACCES);
    }
    CHECK_FALSE(TlsStream::connect(client, "").ok());
    CHECK_FALSE(TlsStream::connect(client, std::string("a\0b", 3)).ok());
}

TEST_CASE("certificates of clients: none, optional, required") {
    const Authority servers;
    const Authority clients("clients");
    Wanted alice;
    alice.common_name = "alice, \"the\" client";
    alice.names = "";
    const Certificate good = clients.issue(alice);
    const Certificate strange = servers.issue(alice);
    Wanted late = alice;
    late.begins_s = -7200;
    late.ends_s = -3600;
    const Certificate expired = clients.issue(late);
    Wanted nobody;
    nobody.common_name = "";
    nobody.names = "";
    const Certificate nameless = clients.issue(nobody);
    struct Case {
        ClientCertificates mode;
        const Certificate* shown;
        const char* refused;  ///< what the server says; null: it lets it in
        const char* told;     ///< what the client hears
        const char* peer;
    };
    using enum ClientCertificates;
    constexpr const char* kAlice = R"(CN=alice\, \"the\" client)";
    for (const Case& one : {
             Case{none, nullptr, nullptr, "", ""},
             Case{none, &good, nullptr, "", ""},
             Case{optional, nullptr, nullptr, "", ""},
             Case{optional, &good, nullptr, "", kAlice},
             Case{optional, &strange, "tcp.client_ca", "does not know the authority", ""},
             Case{optional, &expired, "has expired", "it has expired", ""},
             Case{optional, &nameless, "has no subject", nullptr, ""},
             Case{required, nullptr, "requires", "wants a certificate, and none was shown", ""},
             Case{required, &good, nullptr, "", kAlice},
             Case{required, &strange, "tcp.client_ca", "does not know the authority", ""},
         }) {
        CAPTURE(int(one.mode));
        Ends ends(server_context(servers.issue(), &clients, one.mode),
                  client_context(servers, one.shown));
        ends.run();
        CHECK(ends.server->ready() == (one.refused == nullptr));
        CHECK(ends.server->peer() == one.peer);
        if (one.refused != nullptr) {
            CHECK_MESSAGE(has(why(*ends.server), one.refused), why(*ends.server));
            CHECK(code(*ends.server) == EACCES);
            if (one.told != nullptr) {
                CHECK(code(*ends.client) == EACCES);
                CHECK_MESSAGE(has(why(*ends.client), one.told), why(*ends.client));
            }
        } else {
            ends.say_to_server(bytes_of("hello"));
            CHECK(text_of(ends.heard_by_server) == "hello");
        }
    }
}

TEST_CASE("a subject that is too long is nobody's identity, and what is odd in one is escaped") {
    const Authority authority;
    Wanted wanted;
    wanted.common_name = std::string(60, '\\') + "\xc3\xa4";
    for (const int units : {0, 20}) {
        wanted.units = units;
        const Certificate own = authority.issue(wanted);
        Ends ends(server_context(authority.issue(), &authority, ClientCertificates::required),
                  client_context(authority, &own));
        ends.run();
        CHECK(ends.server->ready() == (units == 0));
        if (units == 0) {
            CHECK(ends.server->peer() == "CN=" + std::string(120, '\\') + R"(\C3\A4)");
        } else {
            CHECK(has(why(*ends.server), "more than 512 bytes"));
        }
    }
}

TEST_CASE("what is no TLS is known by its first bytes, at either end") {
    const Authority authority;
    const Context server = server_context(authority.issue());
    const Context client = client_context(authority);
    for (const std::string_view text :
         {std::string_view("GET / HTTP/1.1\r\n\r\n"), std::string_view("\x20\0\0\0\1\0\0\0", 8),
          std::string_view("\x16\x02", 2), std::string_view("\x16\x03\x05", 3),
          std::string_view("\x15\x03\x01\0\2\2\x50", 7)}) {
        for (const std::size_t cut : {std::size_t{1}, ~std::size_t{0}}) {
            Ends ends(server, client);
            Ends::deliver(bytes_of(text), *ends.server, ends.heard_by_server, cut);
            CHECK(ends.server->spoken_to_plainly());
            CHECK(code(*ends.server) == EPROTO);
            CHECK(has(why(*ends.server), "tls:HOST:PORT"));
            CHECK_FALSE(ends.server->due());  // no alert, for who does not speak TLS
        }
    }
    for (const std::string_view text :
         {std::string_view("HTTP/1.1 400 Bad"), std::string_view("\x30\0\0\0\2\0", 6)}) {
        Ends ends(server, client);
        Ends::deliver(bytes_of(text), *ends.client, ends.heard_by_client);
        CHECK(ends.client->spoken_to_plainly());
        CHECK(has(why(*ends.client), "tcp:HOST:PORT"));
    }
    Ends refused(server, client);
    Ends::deliver(bytes_of({"\x15\x03\x03\0\2\2\x50", 7}), *refused.client,
                  refused.heard_by_client);
    CHECK(has(why(*refused.client), "its log says why"));
    CHECK(may_be_tls(refused.client->seal({})));
    CHECK(may_be_tls(bytes_of("\x16")));
    CHECK_FALSE(may_be_tls({}));
    CHECK_FALSE(may_be_tls(bytes_of("GET")));
}

TEST_CASE("an older TLS is refused, in so many words") {
    const Authority authority;
    Ends ends(server_context(authority.issue()), client_context(authority));
    // A ClientHello that offers 1.2 and has no extensions.
    std::string hello("\x03\x03", 2);
    hello += std::string(32, 'r') + std::string("\0\0\x02\xc0\x2f\x01\0", 7);
    std::string body("\x01\0\0", 3);
    body += static_cast<char>(hello.size());
    body += hello;
    std::string record("\x16\x03\x01\0", 4);
    record += static_cast<char>(body.size());
    record += body;
    Ends::deliver(bytes_of(record), *ends.server, ends.heard_by_server);
    CHECK(has(why(*ends.server), "speaks no TLS 1.3"));
    CHECK(ends.server->due());  // an alert
    Ends other(server_context(authority.issue()), client_context(authority));
    Ends::deliver(ends.server->seal({}), *other.client, other.heard_by_client);
    CHECK(has(why(*other.client), "speaks no TLS 1.3"));
}

TEST_CASE("a handshake is bounded in bytes") {
    const Authority authority;
    const Context server = server_context(authority.issue());
    Ends ends(server, client_context(authority));
    // Records of a ClientHello of 127 KiB, which OpenSSL alone would wait for.
    std::string record("\x16\x03\x01\x40\0\x01\x01\xff\0", 9);
    record += std::string(16380, 'x');
    std::size_t fed = 0;
    Bytes heard;
    while (ends.server->feed(bytes_of(record), heard).ok() && fed < (1 << 20)) {
        fed += record.size();
        record.replace(5, 4, "xxxx");
    }
    CHECK(fed <= TlsStream::kHandshakeBytesMax);
    CHECK(has(why(*ends.server), "a TLS handshake of more than 64 KiB"));
    // Nor may a certificate be as large as it likes.
    Wanted large;
    large.padding_bytes = 40'000;
    const Certificate own = authority.issue(large);
    Ends wide(server_context(authority.issue(), &authority, ClientCertificates::optional),
              client_context(authority, &own));
    wide.run();
    CHECK_FALSE(wide.server->ready());
    CHECK(code(*wide.server) == EPROTO);
}

TEST_CASE("a handshake takes no more memory than is charged for it") {
    const Authority authority;
    const auto allocated = [] {
        const struct mallinfo2 now = ::mallinfo2();
        return now.uordblks + now.hblkhd;
    };
    std::size_t most = 0;
    for (const int others : {0, 0, 20, 60, 100, 120}) {  // a large one, or many
        Wanted large;
        large.padding_bytes = others == 0 ? 30'000 : 0;
        Certificate own = authority.issue(large);
        for (int i = 0; i < others; i++) {
            own.certificate += authority.issue().certificate;
        }
        Ends ends(server_context(authority.issue(), &authority, ClientCertificates::optional),
                  client_context(authority, &own));
        Ends::move(*ends.client, *ends.server, ends.heard_by_server, 1000);
        Ends::move(*ends.server, *ends.client, ends.heard_by_client, 1000);
        const Bytes shown = ends.client->seal({});
        const std::size_t before = allocated();
        for (std::size_t at = 0; at + 1 < shown.size() && !ends.server->error(); at++) {
            Ends::deliver(std::span(shown).subspan(at, 1), *ends.server, ends.heard_by_server);
            const std::size_t now = allocated();
            most = std::max(most, now - std::min(now, before));
        }
    }
    MESSAGE("a handshake takes ", most / 1024, " KiB");
    CHECK(most < TlsStream::kHandshakeMemoryBytes);
}

TEST_CASE("truncated, changed, and noise: an error, and never a byte that was not said") {
    const Authority authority;
    const Context server =
        server_context(authority.issue(), &authority, ClientCertificates::optional);
    const Context client = client_context(authority);
    std::mt19937 random(7);
    const std::string said(3000, 's');
    for (int round = 0; round < 400; round++) {
        CAPTURE(round);
        Ends ends(server, client);
        Bytes record;
        if (round % 2 == 0) {
            record = ends.client->seal({});  // of the handshake
        } else {
            ends.run();
            record = ends.client->seal(bytes_of(said));
        }
        const std::size_t at = random() % record.size();
        if (round % 4 < 2) {
            record[at] ^= std::byte{static_cast<unsigned char>(1 + random() % 255)};
        } else {
            record.resize(at);
            for (std::size_t i = 0; i < 40'000; i++) {
                record.push_back(std::byte{static_cast<unsigned char>(random())});
            }
        }
        Ends::deliver(record, *ends.server, ends.heard_by_server, 1 + random() % 5000);
        CHECK(ends.heard_by_server.empty());
        if (round % 2 == 0) {
            ends.run();
            constexpr std::size_t kHeader = 5;  // of a record: not all of it means something
            CHECK((!ends.client->ready() || !ends.server->ready() ||
                   (round % 4 == 0 && at < kHeader)));
        } else {
            CHECK((ends.server->error() || at < 5));
        }
    }
}

TEST_CASE("who makes us answer and does not read is ended") {
    const Authority authority;
    auto accepted = TlsStream::accept(server_context(authority.issue()));
    REQUIRE(accepted.ok());
    TlsStream& server = *accepted.value();
    RawClient client;
    Bytes heard;
    while (!server.ready()) {
        (void)SSL_do_handshake(client.ssl.get());
        REQUIRE(server.feed(client.said(), heard).ok());
        client.hear(server.seal({}));
    }
    std::size_t rounds = 0;
    while (!server.error() && rounds < 100'000) {
        REQUIRE(SSL_key_update(client.ssl.get(), SSL_KEY_UPDATE_REQUESTED) == 1);
        REQUIRE(SSL_do_handshake(client.ssl.get()) == 1);
        (void)server.feed(client.said(), heard);
        rounds++;
    }
    REQUIRE(server.error());
    CHECK(server.error()->what == "answers of TLS are asked for and not read");
}

TEST_SUITE_END();
