// SPDX-License-Identifier: Apache-2.0
// Goal: one event is one harmless line; a target that is full, gone or moved costs lines, which are
// counted, and never blocks. Method: a file and a FIFO in a temporary directory.
#include "log.hpp"

#include "sys/unique_fd.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

using namespace ipcbus;

namespace {

class LogDir {
public:
    LogDir() { REQUIRE(::mkdtemp(name_) != nullptr); }
    ~LogDir() {
        (void)daemon::log_open({});  // back to stderr
        for (const char* file : {"/log", "/log.1", "/fifo"}) {
            (void)::unlink((name_ + std::string(file)).c_str());
        }
        (void)::rmdir(name_);
    }
    [[nodiscard]] std::string path(const char* file) const { return name_ + std::string(file); }

private:
    char name_[32] = "/tmp/ipcbus-log-XXXXXX";
};

std::string read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return std::move(text).str();
}

std::size_t count_lines(const std::string& text) {
    std::size_t count = 0;
    for (const char c : text) {
        count += c == '\n' ? 1 : 0;
    }
    return count;
}

}  // namespace

TEST_SUITE_BEGIN("log");

TEST_CASE("a file: levels, hostile texts, long texts, rotation") {
    const LogDir directory;
    const std::string path = directory.path("/log");
    daemon::LogConfig config{.level = daemon::LogLevel::info, .target = path};
    REQUIRE(daemon::log_open(config).ok());
    daemon::log_info("client {} {}", 7, "evil\n<3>forged\x1b[2J {}");
    daemon::log_debug("not {}", "seen");
    std::string text = read(path);
    CHECK(count_lines(text) == 1);
    CHECK(text.find(" info: client 7 evil?<3>forged?[2J {}\n") != std::string::npos);

    daemon::log_error("{}", std::string(100000, 'x'));
    text = read(path);
    CHECK(count_lines(text) == 2);
    CHECK(text.size() < 10000);

    config.level = daemon::LogLevel::debug;
    REQUIRE(::rename(path.c_str(), directory.path("/log.1").c_str()) == 0);
    REQUIRE(daemon::log_open(config).ok());
    daemon::log_debug("after rotation");
    CHECK(read(path).find(" debug: after rotation\n") != std::string::npos);
    CHECK(read(directory.path("/log.1")) == text);

    // A target that cannot be opened leaves the old one.
    CHECK_FALSE(daemon::log_open({.level = config.level, .target = "/nonexistent/log"}).ok());
    daemon::log_info("still here");
    CHECK(read(path).find("still here") != std::string::npos);
}

TEST_CASE("a full pipe drops lines, counts them, and says so when there is room") {
    const LogDir directory;
    const std::string path = directory.path("/fifo");
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    const sys::UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    REQUIRE(reader.valid());
    REQUIRE(daemon::log_open({.level = daemon::LogLevel::info, .target = path}).ok());
    const std::uint64_t before = daemon::log_lines_dropped();
    for (int i = 0; i < 200; ++i) {
        daemon::log_info("{}", std::string(2000, 'y'));
    }
    const std::uint64_t dropped = daemon::log_lines_dropped() - before;
    CHECK(dropped > 0);
    CHECK(dropped < 200);
    static std::array<char, 1 << 20> buffer;
    REQUIRE(::read(reader.get(), buffer.data(), buffer.size()) > 0);
    daemon::log_info("room again");
    const ssize_t got = ::read(reader.get(), buffer.data(), buffer.size());
    REQUIRE(got > 0);
    const std::string text(buffer.data(), static_cast<std::size_t>(got));
    CHECK(text.find(fmt::format("warning: {} lines were lost here", dropped)) != std::string::npos);
    CHECK(text.find("room again") != std::string::npos);
    CHECK(count_lines(text) == 2);
}

TEST_SUITE_END();
