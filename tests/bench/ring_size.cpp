// SPDX-License-Identifier: Apache-2.0
// ring_size: what a ring's size costs and gives, to choose the default by. For sizes from 64 KiB to
// 4 MiB, interleaved so that the neighbours' noise falls on all alike: connect-to-first-message
// (connect, advertise, subscribe, publish, receive, in one process), and throughput from one
// process to another of 64-byte, 1 KiB and 16 KiB messages, copied in and read in place. Prints
// medians, and ratios to the smallest size.
//
//   ring_size ADDRESS [ROUNDS]        with a daemon listening at ADDRESS
#include <ipcbus/ipcbus.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kSizes[] = {64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20};
constexpr std::size_t kMessages[] = {64, 1024, 16384};

double since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
}

template <class T>
T check(T result, const char* what) {
    if (result < 0) {
        std::fprintf(stderr, "ring_size: %s: %s\n", what, ipcbus_last_error());
        std::exit(1);
    }
    return result;
}

ipcbus_bus* connect(const char* address) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address;
    ipcbus_bus* bus = nullptr;
    check(ipcbus_connect(&options, &bus), "connect");
    return bus;
}

double connect_to_first_message(const char* address, std::size_t ring_bytes) {
    const auto began = Clock::now();
    ipcbus_bus* bus = connect(address);
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = ring_bytes;
    ipcbus_publisher* publisher = nullptr;
    check(ipcbus_advertise(bus, "bench/connect", &options, &publisher), "advertise");
    ipcbus_subscriber* subscriber = nullptr;
    check(ipcbus_subscribe(bus, "bench/connect", nullptr, &subscriber), "subscribe");
    check(ipcbus_publish(publisher, "x", 1), "publish");
    char byte = 0;
    check(ipcbus_receive(subscriber, &byte, 1, IPCBUS_FOREVER, nullptr), "receive");
    const double seconds = since(began);
    ipcbus_close(bus);
    return seconds;
}

[[noreturn]] void read_all(const char* address, std::size_t count, std::size_t bytes) {
    ipcbus_bus* bus = connect(address);
    ipcbus_subscriber* subscriber = nullptr;
    check(ipcbus_subscribe(bus, "bench/stream", nullptr, &subscriber), "subscribe");
    std::vector<ipcbus_message> messages(64);
    std::uint64_t next = 0;
    std::uint64_t sum = 0;
    while (next < count) {
        const std::int64_t got = check(
            ipcbus_borrow_many(subscriber, IPCBUS_FOREVER, messages.data(), 64), "borrow");
        for (std::int64_t i = 0; i < got; i++) {
            const auto* data = static_cast<const char*>(messages[static_cast<std::size_t>(i)].data);
            std::uint64_t number = 0;
            std::memcpy(&number, data, sizeof number);
            for (std::size_t at = 0; at < bytes; at += 64) {
                sum += static_cast<unsigned char>(data[at]);
            }
            if (number != next++) {
                std::fprintf(stderr, "ring_size: message %zu is wrong\n", std::size_t(next - 1));
                ::_exit(1);
            }
        }
        check(ipcbus_release(subscriber), "release");
    }
    ipcbus_close(bus);
    ::_exit(sum == 1 ? 2 : 0);
}

double throughput(const char* address, std::size_t ring_bytes, std::size_t bytes) {
    const std::size_t count = std::max<std::size_t>((std::size_t{64} << 20) / bytes / 2, 2000);
    const pid_t reader = ::fork();
    if (reader == 0) {
        read_all(address, count, bytes);
    }
    ipcbus_bus* bus = connect(address);
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = ring_bytes;
    ipcbus_publisher* publisher = nullptr;
    check(ipcbus_advertise(bus, "bench/stream", &options, &publisher), "advertise");
    check(ipcbus_wait_subscribers(publisher, 1, IPCBUS_FOREVER), "wait for the reader");
    std::vector<char> message(bytes, 'x');
    const auto began = Clock::now();
    for (std::uint64_t i = 0; i < count; i++) {
        std::memcpy(message.data(), &i, sizeof i);
        check(ipcbus_publish(publisher, message.data(), bytes), "publish");
    }
    int status = 0;
    (void)::waitpid(reader, &status, 0);
    const double seconds = since(began);
    if (status != 0) {
        std::exit(1);
    }
    ipcbus_close(bus);
    return static_cast<double>(count * bytes) / seconds / 1e6;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: ring_size ADDRESS [ROUNDS]\n");
        return 2;
    }
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 15;
    std::map<std::size_t, std::vector<double>> first;
    std::map<std::pair<std::size_t, std::size_t>, std::vector<double>> rate;
    for (int round = 0; round < rounds; round++) {
        for (const std::size_t size : kSizes) {
            for (int i = 0; i < 5; i++) {
                first[size].push_back(connect_to_first_message(argv[1], size) * 1e6);
            }
            for (const std::size_t bytes : kMessages) {
                rate[{size, bytes}].push_back(throughput(argv[1], size, bytes));
            }
        }
    }
    std::printf("%-10s %24s", "ring", "first message us (ratio)");
    for (const std::size_t bytes : kMessages) {
        std::printf("  %7zu B: MB/s (ratio)", bytes);
    }
    std::printf("\n");
    for (const std::size_t size : kSizes) {
        const double us = median(first[size]);
        std::printf("%6zu KiB %16.0f (%5.2f)", size >> 10, us, us / median(first[kSizes[0]]));
        for (const std::size_t bytes : kMessages) {
            const double mb = median(rate[{size, bytes}]);
            std::printf("  %15.0f (%5.2f)", mb, mb / median(rate[{kSizes[0], bytes}]));
        }
        std::printf("\n");
    }
    return 0;
}
