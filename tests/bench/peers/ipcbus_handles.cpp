// SPDX-License-Identifier: Apache-2.0
// ipcbus's handles, and its daemon; see ipcbus_handles.hpp.
#include "peers/ipcbus_handles.hpp"

#include <cstdint>

namespace ipcbus::bench {
namespace {

std::string address_of_daemon;  // written before the fork

}  // namespace

const std::string& bus_address() { return address_of_daemon; }

std::string start_ipcbusd(Server& server, const Setup& setup, bool tcp) {
    const std::string socket = setup.directory + "/bus.sock";
    const std::string address = "unix:" + socket;
    std::vector<std::string> words{setup.build_directory + "/daemon/ipcbusd", "--listen", address};
    const std::string tcp_address =
        "tcp:127.0.0.1:" + std::to_string(tcp ? Server::free_port() : 0);
    if (tcp) {
        words.insert(words.end(), {"--listen", tcp_address});
    }
    const std::string why =
        server.start(words, setup.directory + "/log", [&] { return Server::answers(socket); });
    if (tcp) {
        return why.empty() ? tcp_address : "";
    }
    address_of_daemon = why.empty() ? address : "";
    return address_of_daemon;
}

ipcbus_bus* connect_bus(const std::string& address) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    options.name = "compare_run";
    ipcbus_bus* bus = nullptr;
    check(ipcbus_connect(&options, &bus), "connect");
    return bus;
}

ipcbus_publisher* advertise(ipcbus_bus* bus, const std::string& topic, std::size_t ring_bytes) {
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = ring_bytes;
    ipcbus_publisher* publisher = nullptr;
    check(ipcbus_advertise(bus, topic.c_str(), &options, &publisher), "advertise");
    return publisher;
}

ipcbus_subscriber* subscribe(ipcbus_bus* bus, const std::string& filter, Waiting waiting) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.spin_ns = waiting == Waiting::spin ? INT64_MAX : waiting == Waiting::sleep ? -1 : 0;
    ipcbus_subscriber* subscriber = nullptr;
    check(ipcbus_subscribe(bus, filter.c_str(), &options, &subscriber), "subscribe");
    return subscriber;
}

}  // namespace ipcbus::bench
