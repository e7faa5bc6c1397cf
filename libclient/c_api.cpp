// SPDX-License-Identifier: Apache-2.0
// The C ABI: checks arguments, catches what the standard library throws, calls the objects, returns
// 0 or -errno. Nothing else happens here. The contract is ipcbus/ipcbus.h. Requests and replies are
// in c_api_exchange.cpp.
#include "c_api.hpp"
#include "publisher.hpp"
#include "set.hpp"
#include "subscriber.hpp"

#include <errno.h>

using ipcbus::client::adopted;
using ipcbus::client::Bus;
using ipcbus::client::BusOptions;
using ipcbus::client::destroy;
using ipcbus::client::failed;
using ipcbus::client::guarded;
using ipcbus::client::Publisher;
using ipcbus::client::PublisherOptions;
using ipcbus::client::Set;
using ipcbus::client::Subscriber;
using ipcbus::client::SubscriberOptions;
using ipcbus::client::take_options;

// The opaque handles of the header are these objects.
struct ipcbus_publisher {
    std::unique_ptr<Publisher> publisher;
};
struct ipcbus_subscriber {
    std::unique_ptr<Subscriber> subscriber;
};
struct ipcbus_set {
    std::unique_ptr<Set> set;
};

extern "C" {

int ipcbus_connect(const struct ipcbus_connect_options* options, ipcbus_bus** ret_bus) {
    return guarded([&]() -> int {
        ipcbus_connect_options given;
        if (const int error = take_options(options, &given); error != 0) {
            return error;
        }
        if (ret_bus == nullptr || (given.flags & ~IPCBUS_NO_RECONNECT) != 0 ||
            given.reserved != 0) {
            return failed(EINVAL, ret_bus == nullptr ? "ret_bus is NULL" : "unknown flags");
        }
        BusOptions bus_options;
        bus_options.address = given.address != nullptr ? given.address : "";
        bus_options.name = given.name != nullptr ? given.name : ::program_invocation_short_name;
        if (bus_options.name.size() > ipcbus::protocol::kClientNameBytesMax) {
            if (given.name != nullptr) {
                return failed(ENAMETOOLONG, "the name is longer than 64 bytes");
            }
            bus_options.name.resize(ipcbus::protocol::kClientNameBytesMax);
        }
        bus_options.timeout_ns = given.timeout_ns;
        bus_options.reconnect = (given.flags & IPCBUS_NO_RECONNECT) == 0;
        const auto text = [](const char* given_text) {
            return std::string(given_text != nullptr ? given_text : "");
        };
        bus_options.tls = {text(given.ca_file), text(given.certificate_file), text(given.key_file),
                           text(given.server_name)};
        auto bus = Bus::connect(bus_options);
        if (!bus.ok()) {
            return failed(bus.error());
        }
        *ret_bus = new ipcbus_bus{std::move(bus).value()};
        return 0;
    });
}

void ipcbus_close(ipcbus_bus* bus) {
    if (bus == nullptr) {
        return;
    }
    if (bus->bus->in_child()) {
        (void)bus->bus.release();
    } else {
        bus->bus->close_handles();
    }
    delete bus;
}

int ipcbus_state(ipcbus_bus* bus) {
    return guarded([&]() -> int {
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        switch (bus->bus->state()) {
        case Bus::State::connected:
            return IPCBUS_CONNECTED;
        case Bus::State::orphaned:
            return IPCBUS_ORPHANED;
        case Bus::State::closed:
            break;
        }
        return IPCBUS_CLOSED;
    });
}

uint64_t ipcbus_reconnects(const ipcbus_bus* bus) { return bus->bus->generation() - 1; }

// -------------------------------------------------------------------------------- publishing

int ipcbus_advertise(ipcbus_bus* bus, const char* topic,
                     const struct ipcbus_publisher_options* options,
                     ipcbus_publisher** ret_publisher) {
    return guarded([&]() -> int {
        ipcbus_publisher_options given;
        if (const int error = take_options(options, &given); error != 0) {
            return error;
        }
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        if (topic == nullptr || ret_publisher == nullptr) {
            return failed(EINVAL, "topic or ret_publisher is NULL");
        }
        const PublisherOptions publisher_options{
            given.ring_bytes, given.message_bytes_max,
            given.max_block_ns == 0 ? IPCBUS_FOREVER : given.max_block_ns};
        auto publisher = Publisher::create(*bus->bus, topic, publisher_options);
        if (!publisher.ok()) {
            return failed(publisher.error());
        }
        return adopted(*bus->bus, new ipcbus_publisher{std::move(publisher).value()},
                       ret_publisher);
    });
}

void ipcbus_unadvertise(ipcbus_publisher* publisher) {
    if (publisher != nullptr) {
        destroy(publisher, publisher->publisher);
    }
}

int ipcbus_set_max_block(ipcbus_publisher* publisher, int64_t max_block_ns) {
    publisher->publisher->set_max_block(max_block_ns);
    return 0;
}

int ipcbus_publish(ipcbus_publisher* publisher, const void* data, size_t size) {
    return guarded([&] { return publisher->publisher->publish({}, data, size); });
}

int ipcbus_publish_to(ipcbus_publisher* publisher, const char* topic, const void* data,
                      size_t size) {
    if (topic == nullptr) {
        return failed(EINVAL, "topic is NULL");
    }
    return guarded([&] { return publisher->publisher->publish(topic, data, size); });
}

int64_t ipcbus_publish_many(ipcbus_publisher* publisher, const struct ipcbus_buffer* messages,
                            size_t count) {
    return guarded(
        [&]() -> int64_t { return publisher->publisher->publish_many(messages, count); });
}

int ipcbus_claim(ipcbus_publisher* publisher, size_t size, void** ret_data) {
    return guarded([&] { return publisher->publisher->claim({}, size, ret_data); });
}

int ipcbus_claim_to(ipcbus_publisher* publisher, const char* topic, size_t size, void** ret_data) {
    if (topic == nullptr) {
        return failed(EINVAL, "topic is NULL");
    }
    return guarded([&] { return publisher->publisher->claim(topic, size, ret_data); });
}

int ipcbus_commit(ipcbus_publisher* publisher, size_t size) {
    return guarded([&] { return publisher->publisher->commit(size); });
}

int ipcbus_abort(ipcbus_publisher* publisher) { return publisher->publisher->abort(); }

uint32_t ipcbus_subscriber_count(const ipcbus_publisher* publisher) {
    return publisher->publisher->subscriber_count();
}

int ipcbus_wait_subscribers(ipcbus_publisher* publisher, uint32_t count, int64_t timeout_ns) {
    return guarded([&] { return publisher->publisher->wait_subscribers(count, timeout_ns); });
}

size_t ipcbus_message_bytes_max(const ipcbus_publisher* publisher) {
    return publisher->publisher->message_bytes_max();
}

uint64_t ipcbus_ring_bytes(const ipcbus_publisher* publisher) {
    return publisher->publisher->ring_bytes();
}

// ------------------------------------------------------------------------------- subscribing

int ipcbus_subscribe(ipcbus_bus* bus, const char* filter,
                     const struct ipcbus_subscriber_options* options,
                     ipcbus_subscriber** ret_subscriber) {
    return guarded([&]() -> int {
        ipcbus_subscriber_options given;
        if (const int error = take_options(options, &given); error != 0) {
            return error;
        }
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        if (filter == nullptr || ret_subscriber == nullptr || given.mode > IPCBUS_LATEST ||
            given.reserved != 0) {
            return failed(EINVAL, filter == nullptr || ret_subscriber == nullptr
                                      ? "filter or ret_subscriber is NULL"
                                      : "unknown mode");
        }
        const SubscriberOptions subscriber_options{
            static_cast<ipcbus::protocol::ReaderMode>(given.mode), given.spin_ns, given.history};
        static_assert(IPCBUS_OLDEST == ipcbus::protocol::kHistoryAll);
        auto subscriber = Subscriber::create(*bus->bus, filter, subscriber_options);
        if (!subscriber.ok()) {
            return failed(subscriber.error());
        }
        auto* const handle = new ipcbus_subscriber{std::move(subscriber).value()};
        handle->subscriber->handle = handle;
        return adopted(*bus->bus, handle, ret_subscriber);
    });
}

void ipcbus_unsubscribe(ipcbus_subscriber* subscriber) {
    if (subscriber != nullptr) {
        destroy(subscriber, subscriber->subscriber);
    }
}

int ipcbus_receive(ipcbus_subscriber* subscriber, void* buffer, size_t size, int64_t timeout_ns,
                   struct ipcbus_message* ret_message) {
    return guarded(
        [&] { return subscriber->subscriber->receive(buffer, size, timeout_ns, ret_message); });
}

int ipcbus_borrow(ipcbus_subscriber* subscriber, int64_t timeout_ns,
                  struct ipcbus_message* ret_message) {
    if (ret_message == nullptr) {
        return failed(EINVAL, "ret_message is NULL");
    }
    return guarded([&] { return subscriber->subscriber->borrow(timeout_ns, ret_message); });
}

int64_t ipcbus_borrow_many(ipcbus_subscriber* subscriber, int64_t timeout_ns,
                           struct ipcbus_message* ret_messages, size_t count) {
    if (ret_messages == nullptr || count == 0) {
        return failed(EINVAL, "there is no room for a message");
    }
    return guarded([&]() -> int64_t {
        return subscriber->subscriber->borrow_many(timeout_ns, ret_messages, count);
    });
}

int ipcbus_release(ipcbus_subscriber* subscriber) {
    return guarded([&] { return subscriber->subscriber->release(); });
}

int ipcbus_fd(ipcbus_subscriber* subscriber) {
    return guarded([&] { return subscriber->subscriber->fd(); });
}

int ipcbus_notify(ipcbus_subscriber* subscriber, int signal, void* value) {
    return guarded([&] { return subscriber->subscriber->notify(signal, value); });
}

uint64_t ipcbus_lost(const ipcbus_subscriber* subscriber) { return subscriber->subscriber->lost(); }

uint32_t ipcbus_publication_count(const ipcbus_subscriber* subscriber) {
    return subscriber->subscriber->publication_count();
}

// -------------------------------------------------------------------------------------- sets

int ipcbus_set_create(ipcbus_bus* bus, ipcbus_set** ret_set) {
    return guarded([&]() -> int {
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        if (ret_set == nullptr) {
            return failed(EINVAL, "ret_set is NULL");
        }
        auto set = Set::create(*bus->bus);
        if (!set.ok()) {
            return failed(set.error());
        }
        return adopted(*bus->bus, new ipcbus_set{std::move(set).value()}, ret_set);
    });
}

void ipcbus_set_free(ipcbus_set* set) {
    if (set != nullptr) {
        destroy(set, set->set);
    }
}

int ipcbus_set_add(ipcbus_set* set, ipcbus_subscriber* subscriber) {
    return guarded([&] { return set->set->add(*subscriber->subscriber); });
}

int ipcbus_set_remove(ipcbus_set* set, ipcbus_subscriber* subscriber) {
    return guarded([&] { return set->set->remove(*subscriber->subscriber); });
}

int ipcbus_set_wait(ipcbus_set* set, int64_t timeout_ns, ipcbus_subscriber** ret_subscriber) {
    return guarded([&]() -> int {
        if (ret_subscriber == nullptr) {
            return failed(EINVAL, "ret_subscriber is NULL");
        }
        Subscriber* found = nullptr;
        const int error = set->set->wait(timeout_ns, &found);
        if (error == 0) {
            *ret_subscriber = found->handle;
        }
        return error;
    });
}

int ipcbus_set_fd(ipcbus_set* set) {
    return guarded([&] { return set->set->fd(); });
}

// ------------------------------------------------------------------------------------- about

const char* ipcbus_last_error(void) { return ipcbus::client::error_text(); }

const char* ipcbus_version(void) { return IPCBUS_VERSION; }

uint32_t ipcbus_protocol_version(void) {
    return uint32_t{ipcbus::protocol::kProtocolMajor} << 16 | ipcbus::protocol::kProtocolMinor;
}

uint32_t ipcbus_layout_version(void) { return ipcbus::protocol::kLayoutVersion; }

}  // extern "C"
