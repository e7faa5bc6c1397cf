// SPDX-License-Identifier: Apache-2.0
// D-Bus: a private dbus-daemon on a Unix socket, and libsystemd's sd-bus. A ping-pong is a method
// call and its reply, as D-Bus means them; a stream is signals, from A to B by name, so that no
// rule has to be matched. The payload is an array of bytes, handed over and read as one block. The
// limits of the daemon are far away, and the frame lets no more than a window of signals be on the
// way.
#include "peers/loops.hpp"
#include "peers/polling.hpp"
#include "peers/server.hpp"

#include <systemd/sd-bus.h>

#include <algorithm>
#include <fstream>

namespace ipcbus::bench {
namespace {

constexpr const char* kPath = "/ipcbus/bench";
constexpr const char* kInterface = "ipcbus.Bench";
constexpr const char* kNames[] = {"ipcbus.Bench.A", "ipcbus.Bench.B"};

void check(int result, const char* what) {
    if (result < 0) {
        fail("D-Bus", std::string(what) + ": " + std::strerror(-result));
    }
}

class DBus : public PeerLoops<DBus> {
public:
    ~DBus() override {
        settle();
        sd_bus_message_unref(called_);
        sd_bus_flush_close_unref(bus_);
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return server_.pid(); }

    std::string start(const Setup& setup) override {
        socket_ = setup.directory + "/bus";
        const std::string config = setup.directory + "/bus.conf";
        std::ofstream(config)
            << "<busconfig><type>session</type><auth>EXTERNAL</auth>"
            << "<listen>unix:path=" << socket_ << "</listen>"
            << "<policy context='default'><allow send_destination='*' eavesdrop='true'/>"
            << "<allow eavesdrop='true'/><allow own='*'/></policy>"
            << "<limit name='max_incoming_bytes'>134217728</limit>"
            << "<limit name='max_outgoing_bytes'>134217728</limit></busconfig>";
        return server_.start({"dbus-daemon", "--config-file=" + config, "--nofork", "--nopidfile"},
                             setup.directory + "/log", [this] { return Server::answers(socket_); });
    }
    void open(Side side) override {
        const int own = side == Side::a ? 0 : 1;
        check(sd_bus_new(&bus_), "memory");
        check(sd_bus_set_address(bus_, ("unix:path=" + socket_).c_str()), "address");
        check(sd_bus_set_bus_client(bus_, 1), "client");
        check(sd_bus_start(bus_), "connect");
        check(sd_bus_request_name(bus_, kNames[own], 0), "name");
        other_ = kNames[1 - own];
    }
    void prepare(const Slice& slice) override {
        traits_.window = std::clamp<std::size_t>(kWindowBytes / slice.message_bytes, 4, 256);
        spin_ = slice.waiting == Waiting::spin;
        stream_ = slice.stream;
    }

    void send(const void* data, std::size_t bytes) {
        sd_bus_message* message = nullptr;
        std::uint64_t cookie = 0;  // asking for it asks for a reply
        std::uint64_t* ret_cookie = nullptr;
        if (stream_) {
            check(sd_bus_message_new_signal(bus_, &message, kPath, kInterface, "Data"), "signal");
            check(sd_bus_message_set_destination(message, other_), "destination");
        } else if (called_ != nullptr) {
            check(sd_bus_message_new_method_return(called_, &message), "reply");
            called_ = sd_bus_message_unref(called_);
        } else {
            check(sd_bus_message_new_method_call(bus_, &message, other_, kPath, kInterface, "Echo"),
                  "call");
            ret_cookie = &cookie;
        }
        check(sd_bus_message_append_array(message, 'y', data, bytes), "payload");
        check(sd_bus_send(bus_, message, ret_cookie), "send");
        sd_bus_message_unref(message);
    }
    void flush() { check(sd_bus_flush(bus_), "flush"); }
    const void* receive(std::size_t& ret_bytes) {
        settle();
        const void* data = nullptr;
        while (true) {
            const int done = sd_bus_process(bus_, &received_);
            check(done, "receive");
            if (received_ != nullptr && sd_bus_message_has_signature(received_, "ay") > 0) {
                break;
            }
            settle();  // what the daemon says about names
            if (done == 0) {
                await_input(sd_bus_get_fd(bus_), spin_);
            }
        }
        check(sd_bus_message_read_array(received_, 'y', &data, &ret_bytes), "payload");
        if (sd_bus_message_is_method_call(received_, nullptr, nullptr) > 0) {
            called_ = sd_bus_message_ref(received_);
        }
        return data;
    }
    void settle() { received_ = sd_bus_message_unref(received_); }

private:
    static constexpr std::size_t kWindowBytes = 1 << 20;

    Traits traits_{.name = "D-Bus",
                   .spins = has_cpus(3),
                   .has_server = true,
                   .packages = {"dbus-daemon", "libsystemd-dev"}};
    Server server_;
    std::string socket_;
    sd_bus* bus_ = nullptr;
    const char* other_ = nullptr;
    sd_bus_message* received_ = nullptr;
    sd_bus_message* called_ = nullptr;  // what B has to reply to
    bool spin_ = false;
    bool stream_ = false;
};

const Registered registered(430, [] { return std::make_unique<DBus>(); });

}  // namespace
}  // namespace ipcbus::bench
