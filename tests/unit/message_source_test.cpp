// SPDX-License-Identifier: Apache-2.0
// Splitting an input into messages. Goal: every byte arrives in the right message, whatever the
// chunks it is read in, and a complete message never waits for more input. Method: pipes that are
// written between the calls.
#include "message_source.hpp"

#include "sys/unique_fd.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

using namespace ipcbus::tools;
using namespace std::literals;
using ipcbus::sys::Deadline;
using ipcbus::sys::UniqueFd;
using Framing = MessageSource::Framing;
using Step = MessageSource::Step;

namespace {

constexpr std::size_t kMax = 100'000;
constexpr std::size_t kBatch = 64;

struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;

    Pipe() {
        int fds[2];
        REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
        read_end.reset(fds[0]);
        write_end.reset(fds[1]);
    }
    void write(std::string_view text) const {
        REQUIRE(::write(write_end.get(), text.data(), text.size()) ==
                static_cast<ssize_t>(text.size()));
    }
};

/// A file with this content, to be read from its beginning.
UniqueFd file_with(std::string_view content) {
    UniqueFd file(::memfd_create("input", MFD_CLOEXEC));
    REQUIRE(::write(file.get(), content.data(), content.size()) ==
            static_cast<ssize_t>(content.size()));
    REQUIRE(::lseek(file.get(), 0, SEEK_SET) == 0);
    return file;
}

std::vector<std::string> copies(const std::vector<ipcbus_buffer>& messages) {
    std::vector<std::string> strings;
    for (const ipcbus_buffer& message : messages) {
        strings.emplace_back(static_cast<const char*>(message.data), message.size);
    }
    return strings;
}

/// All messages of `content`, and in ret_last how it ended.
std::vector<std::string> split(std::string_view content, Framing framing, Step& ret_last,
                               std::size_t message_max = kMax) {
    const UniqueFd file = file_with(content);
    MessageSource source(file.get(), framing, message_max);
    std::vector<std::string> all;
    std::vector<ipcbus_buffer> messages;
    while ((ret_last = source.next(messages, 3, Deadline{})) == Step::messages) {
        REQUIRE(!messages.empty());
        REQUIRE(messages.size() <= 3);
        for (std::string& message : copies(messages)) {
            all.push_back(std::move(message));
        }
    }
    CHECK(source.count() == all.size());
    return all;
}

using Strings = std::vector<std::string>;

}  // namespace

TEST_SUITE("message_source") {
    TEST_CASE("lines: empty ones, bytes that are no text, a last one without a newline") {
        Step last{};
        CHECK(split("", Framing::lines, last).empty());
        CHECK(last == Step::end);
        CHECK(split("a\n", Framing::lines, last) == Strings{"a"});
        CHECK(split("a\nb", Framing::lines, last) == Strings{"a", "b"});
        CHECK(split("\n\nx\n", Framing::lines, last) == Strings{"", "", "x"});
        CHECK(split("\0\xff\r\ny\n"sv, Framing::lines, last) ==
              Strings{std::string("\0\xff\r"sv), "y"});
        CHECK(split("1\n2\n3\n4\n5\n6\n7\n", Framing::lines, last).size() == 7);
        CHECK(last == Step::end);
    }

    TEST_CASE("pieces that end with NUL") {
        Step last{};
        CHECK(split("a\nb\0c\0\0d"sv, Framing::nul, last) == Strings{"a\nb", "c", "", "d"});
        CHECK(last == Step::end);
    }

    TEST_CASE("pieces after their length") {
        Step last{};
        CHECK(split("\x02\0\0\0a\n\0\0\0\0\x01\0\0\0\0"sv, Framing::length_prefixed, last) ==
              Strings{"a\n", "", std::string(1, '\0')});
        CHECK(last == Step::end);
        CHECK(split("\x01\0\0\0a\x05\0\0\0abc"sv, Framing::length_prefixed, last) == Strings{"a"});
        CHECK(last == Step::cut_short);
        CHECK(split("\x01\0\0"sv, Framing::length_prefixed, last).empty());
        CHECK(last == Step::cut_short);
        CHECK(split("\x01\0\0\0a\xff\xff\xff\xff"sv, Framing::length_prefixed, last) ==
              Strings{"a"});
        CHECK(last == Step::too_long);
    }

    TEST_CASE("all of it") {
        Step last{};
        CHECK(split("a\nb\0"sv, Framing::whole, last) == Strings{std::string("a\nb\0"sv)});
        CHECK(last == Step::end);
        CHECK(split("", Framing::whole, last) == Strings{""});
        const std::string big(kMax, 'x');
        CHECK(split(big, Framing::whole, last) == Strings{big});
        CHECK(split(big + "y", Framing::whole, last).empty());
        CHECK(last == Step::too_long);
    }

    TEST_CASE("long messages and many chunks") {
        Step last{};
        std::string content;
        Strings expected;
        for (std::size_t i = 0; i < 200; ++i) {
            expected.push_back(std::string(i * 37 % 9000, static_cast<char>('a' + i % 26)));
            content += expected.back() + "\n";
        }
        expected.push_back(std::string(kMax, 'z'));
        content += expected.back();
        CHECK(split(content, Framing::lines, last) == expected);
        CHECK(last == Step::end);
        content += "z";
        expected.pop_back();
        CHECK(split(content, Framing::lines, last) == expected);
        CHECK(last == Step::too_long);
        CHECK(split(std::string(1001, 'x') + "\nnext\n", Framing::lines, last, 1000).empty());
        CHECK(last == Step::too_long);
    }

    TEST_CASE("a message far larger than a chunk") {
        Step last{};
        const std::string big(3'000'000, 'b');
        CHECK(split("a\n" + big + "\nc\n", Framing::lines, last, big.size()) ==
              Strings{"a", big, "c"});
        CHECK(split("a\n" + big + "\nc\n", Framing::lines, last, big.size() - 1) == Strings{"a"});
        CHECK(last == Step::too_long);
    }

    TEST_CASE("what is complete is handed out before anything is waited for") {
        const Pipe pipe;
        MessageSource source(pipe.read_end.get(), Framing::lines, kMax);
        std::vector<ipcbus_buffer> messages;
        pipe.write("one\ntwo\nthr");
        REQUIRE(source.next(messages, kBatch, Deadline{}) == Step::messages);
        CHECK(copies(messages) == Strings{"one", "two"});
        CHECK(source.next(messages, kBatch, Deadline::after(0)) == Step::timed_out);
        pipe.write("ee\nfour\n");
        REQUIRE(source.next(messages, 1, Deadline{}) == Step::messages);
        CHECK(copies(messages) == Strings{"three"});
        REQUIRE(source.next(messages, 1, Deadline::after(0)) == Step::messages);
        CHECK(copies(messages) == Strings{"four"});
        CHECK(source.next(messages, kBatch, Deadline::after(1'000'000)) == Step::timed_out);
    }

    TEST_CASE("a non-blocking input is waited for, and a bad one is an error") {
        const Pipe pipe;
        REQUIRE(::fcntl(pipe.read_end.get(), F_SETFL, O_NONBLOCK) == 0);
        MessageSource source(pipe.read_end.get(), Framing::lines, kMax);
        std::vector<ipcbus_buffer> messages;
        CHECK(source.next(messages, kBatch, Deadline::after(1'000'000)) == Step::timed_out);
        pipe.write("x\n");
        CHECK(source.next(messages, kBatch, Deadline{}) == Step::messages);

        MessageSource bad(pipe.write_end.get(), Framing::lines, kMax);
        CHECK(bad.next(messages, kBatch, Deadline{}) == Step::failed);
        CHECK(errno == EBADF);
    }
}

namespace {

struct Fifo {
    Fifo() : path(std::string("/tmp/ipcbus-fifo-") + std::to_string(::getpid())) {
        REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    }
    ~Fifo() { (void)::unlink(path.c_str()); }
    [[nodiscard]] UniqueFd reader() const {
        return UniqueFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    }
    [[nodiscard]] UniqueFd writer() const {
        return UniqueFd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    }
    const std::string path;
};

void put(const UniqueFd& fd, std::string_view text) {
    REQUIRE(::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

}  // namespace

TEST_CASE("a FIFO is followed from writer to writer") {
    const Fifo fifo;
    const UniqueFd first = fifo.reader();
    MessageSource source(first.get(), Framing::lines, kMax, fifo.path);
    std::vector<ipcbus_buffer> messages;
    const auto next = [&](std::int64_t ns) {
        return source.next(messages, kBatch, Deadline::after(ns));
    };
    constexpr std::int64_t kShort = 20'000'000;
    constexpr std::int64_t kLong = 20'000'000'000;
    CHECK(next(kShort) == Step::timed_out);  // no writer yet: not the end
    for (int i = 0; i < 5; i++) {
        UniqueFd writer = fifo.writer();
        put(writer, "one\ntw");
        REQUIRE(next(kLong) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"one"});
        put(writer, "o");
        CHECK(next(kShort) == Step::timed_out);  // it may go on
        writer.reset();
        REQUIRE(next(kLong) == Step::messages);  // it has gone: that was all of it
        CHECK(copies(messages) == std::vector<std::string>{"two"});
        CHECK(next(kShort) == Step::timed_out);
        // One that has come and gone before anybody looked, and one that wrote nothing.
        put(fifo.writer(), "early\n");
        REQUIRE(next(kLong) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"early"});
        fifo.writer().reset();
        CHECK(next(kShort) == Step::timed_out);
        // The end of one that went before the FIFO was opened anew.
        put(fifo.writer(), "left");
        REQUIRE(next(kLong) == Step::messages);
        put(fifo.writer(), "behind");
        REQUIRE(next(kLong) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"behind"});
    }
}

TEST_CASE("what a writer of a FIFO leaves: one message, or the rest of one that is dropped") {
    const Fifo fifo;
    const UniqueFd first = fifo.reader();
    std::vector<ipcbus_buffer> messages;
    constexpr std::int64_t kLong = 20'000'000'000;
    SUBCASE("whole") {
        MessageSource source(first.get(), Framing::whole, kMax, fifo.path);
        for (const std::string_view text : {"a\nb\0c\n"sv, "second"sv}) {
            put(fifo.writer(), text);
            REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::messages);
            CHECK(copies(messages) == std::vector<std::string>{std::string(text)});
        }
    }
    SUBCASE("framed") {
        MessageSource source(first.get(), Framing::length_prefixed, kMax, fifo.path);
        put(fifo.writer(), "\5\0\0\0abc"sv);
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::cut_short);
        put(fifo.writer(), "\3\0\0\0abc"sv);
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"abc"});
    }
    SUBCASE("gone") {
        MessageSource source(first.get(), Framing::lines, kMax, fifo.path);
        put(fifo.writer(), "last");
        REQUIRE(::unlink(fifo.path.c_str()) == 0);
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"last"});
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::failed);
        CHECK(errno == ENOENT);
    }
    SUBCASE("something else at its path") {
        MessageSource source(first.get(), Framing::lines, kMax, fifo.path);
        put(fifo.writer(), "last");
        REQUIRE(::unlink(fifo.path.c_str()) == 0);
        const UniqueFd file(::open(fifo.path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        put(file, "not through the FIFO\n");
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{"last"});
        CHECK(source.next(messages, kBatch, Deadline::after(kLong)) == Step::no_fifo);
    }
}

TEST_CASE("a message of a FIFO that is too long is dropped, and nothing else") {
    const Fifo fifo;
    const UniqueFd first = fifo.reader();
    std::vector<ipcbus_buffer> messages;
    constexpr std::int64_t kLong = 20'000'000'000;
    constexpr std::size_t kFew = 1000;
    const std::string large(kFew + 1, 'x');
    const auto expect_dropped = [&](MessageSource& source) {
        Step step = source.next(messages, kBatch, Deadline::after(kLong));
        while (step == Step::messages && messages.empty()) {
            step = source.next(messages, kBatch, Deadline::after(kLong));
        }
        REQUIRE(step == Step::too_long);
        source.drop_long();
    };
    const auto expect = [&](MessageSource& source, const std::string& text) {
        REQUIRE(source.next(messages, kBatch, Deadline::after(kLong)) == Step::messages);
        CHECK(copies(messages) == std::vector<std::string>{text});
    };
    SUBCASE("lines") {
        MessageSource source(first.get(), Framing::lines, kFew, fifo.path);
        for (int i = 0; i < 3; i++) {
            UniqueFd writer = fifo.writer();
            put(writer, large + "\nbehind it\n");
            expect_dropped(source);
            expect(source, "behind it");
            put(writer, large);
            expect_dropped(source);
            put(writer, "still it");
            writer.reset();
            // One that comes before its end was seen is taken for the same; what is left of a long
            // message goes with its writer, also with one that has gone unseen.
            put(fifo.writer(), ", the last of it\n" + large);
            expect_dropped(source);
            CHECK(source.next(messages, kBatch, Deadline::after(20'000'000)) == Step::timed_out);
            put(fifo.writer(), "another\n");
            expect(source, "another");
        }
    }
    SUBCASE("framed, by a writer that goes on") {
        MessageSource source(first.get(), Framing::length_prefixed, kFew, fifo.path);
        UniqueFd writer = fifo.writer();
        for (int i = 0; i < 3; i++) {
            put(writer, "\xe9\3\0\0"s + large + "\3\0\0\0abc"s);
            expect_dropped(source);
            expect(source, "abc");
            // By and by.
            put(writer, "\xe9\3\0\0"s + large.substr(500));
            expect_dropped(source);
            CHECK(source.next(messages, kBatch, Deadline::after(20'000'000)) == Step::timed_out);
            put(writer, large.substr(0, 499));
            CHECK(source.next(messages, kBatch, Deadline::after(20'000'000)) == Step::timed_out);
            put(writer, "x\0\0\0\0"s);
            expect(source, "");
        }
    }
    SUBCASE("framed and whole") {
        for (const Framing framing : {Framing::length_prefixed, Framing::whole}) {
            MessageSource source(first.get(), framing, kFew, fifo.path);
            put(fifo.writer(), framing == Framing::whole ? large : "\xff\xff\xff\xffrest");
            expect_dropped(source);
            CHECK(source.next(messages, kBatch, Deadline::after(20'000'000)) == Step::timed_out);
            put(fifo.writer(), framing == Framing::whole ? "abc"sv : "\3\0\0\0abc"sv);
            expect(source, "abc");
        }
    }
}
