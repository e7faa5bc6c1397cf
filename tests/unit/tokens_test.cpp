// SPDX-License-Identifier: Apache-2.0
// Goal: a token opens to its owner and nobody else; a file that others could read, or that says
// something else than tokens, is refused with its line; no message holds a token.
#include "tokens.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace ipcbus::daemon;

namespace {

struct File {
    explicit File(std::string_view text, mode_t mode = 0600) {
        fd = ::mkstemp(name);
        REQUIRE(fd >= 0);
        REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        REQUIRE(::fchmod(fd, mode) == 0);
    }
    ~File() {
        (void)::close(fd);
        (void)::unlink(name);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    char name[32] = "/tmp/ipcbus-tokens-XXXXXX";
    int fd = -1;
};

std::string fault(std::string_view text) {
    const auto tokens = Tokens::parse(text, "file");
    REQUIRE_FALSE(tokens.ok());
    CHECK(tokens.error().what.find("secret") == std::string::npos);
    return tokens.error().what;
}

}  // namespace

TEST_SUITE_BEGIN("tokens");

TEST_CASE("whose a token is") {
    const auto parsed =
        Tokens::parse("# a comment\n\n alice secret-of-alice-1\r\nbob\tsecret-of-bob-234", "file");
    REQUIRE(parsed.ok());
    const Tokens& tokens = parsed.value();
    CHECK(tokens.wanted());
    CHECK(tokens.size() == 2);
    CHECK(tokens.owner("secret-of-alice-1") == "alice");
    CHECK(tokens.owner("secret-of-bob-234") == "bob");
    for (const std::string& token :
         {std::string(), std::string("secret-of-alice-"), std::string("secret-of-alice-12"),
          std::string("secret-of-alice-1\0", 18), std::string(256, 'x'), std::string(1000, 'x')}) {
        CHECK(tokens.owner(token).empty());
    }
}

TEST_CASE("what is wrong with a file, by its line") {
    CHECK(fault("") == "file: there is no token in it: nobody could log in");
    CHECK(fault("alice") == "file:1: a line is NAME TOKEN");
    CHECK(fault("#\nalice secret secret") == "file:2: a line is NAME TOKEN");
    CHECK(fault("alice secret") == "file:1: a token has 16 to 256 bytes");
    CHECK(fault("a secret-secret-secret\na another-token-of-a") ==
          "file:2: 'a' has a token already");
    CHECK(fault("a secret-secret-secret\nb secret-secret-secret") ==
          "file:2: the token of 'b' is another's, too");
    CHECK(fault(std::string(65, 'n') + " secret-secret-secret") ==
          "file:1: a name has at most 64 bytes");
}

TEST_CASE("a file that others can get at is refused") {
    const File good("a secret-secret-secret\n");
    CHECK(Tokens::load(good.name).ok());
    for (const mode_t mode : {0640, 0604, 0620}) {
        const File bad("a secret-secret-secret\n", mode);
        const auto loaded = Tokens::load(bad.name);
        REQUIRE_FALSE(loaded.ok());
        CHECK(loaded.error().code == EACCES);
        CHECK(loaded.error().what.find("chmod 600") != std::string::npos);
    }
    CHECK(Tokens::load("/nowhere/tokens").error().code == ENOENT);
    CHECK(Tokens::load("/tmp").error().code == EINVAL);
    CHECK_FALSE(Tokens::load("").value().wanted());
}
