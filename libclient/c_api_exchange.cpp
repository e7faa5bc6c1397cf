// SPDX-License-Identifier: Apache-2.0
// The C ABI of requests and replies. As c_api.cpp: checks, catches, calls. The contract is
// ipcbus/ipcbus.h.
#include "c_api.hpp"
#include "requester.hpp"
#include "responder.hpp"

using ipcbus::client::adopted;
using ipcbus::client::destroy;
using ipcbus::client::failed;
using ipcbus::client::guarded;
using ipcbus::client::Requester;
using ipcbus::client::RequesterOptions;
using ipcbus::client::Responder;
using ipcbus::client::ResponderOptions;
using ipcbus::client::take_options;

struct ipcbus_requester {
    std::unique_ptr<Requester> requester;
};
struct ipcbus_responder {
    std::unique_ptr<Responder> responder;
};

namespace {

constexpr int64_t kUsualBlockNs = 1'000'000'000;

}  // namespace

extern "C" {

int ipcbus_requester_create(ipcbus_bus* bus, const char* topic,
                            const struct ipcbus_requester_options* options,
                            ipcbus_requester** ret_requester) {
    return guarded([&]() -> int {
        ipcbus_requester_options given;
        if (const int error = take_options(options, &given); error != 0) {
            return error;
        }
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        if (topic == nullptr || ret_requester == nullptr) {
            return failed(EINVAL, "topic or ret_requester is NULL");
        }
        auto requester = Requester::create(
            *bus->bus, topic,
            RequesterOptions{given.request_bytes_max, given.reply_bytes_max, given.spin_ns});
        if (!requester.ok()) {
            return failed(requester.error());
        }
        return adopted(*bus->bus, new ipcbus_requester{std::move(requester).value()},
                       ret_requester);
    });
}

void ipcbus_requester_free(ipcbus_requester* requester) {
    if (requester != nullptr) {
        destroy(requester, requester->requester);
    }
}

int ipcbus_call(ipcbus_requester* requester, const void* request, size_t size, void* reply,
                size_t reply_size, int64_t timeout_ns, struct ipcbus_reply* ret_reply) {
    if (ret_reply == nullptr) {
        return failed(EINVAL, "ret_reply is NULL");
    }
    return guarded([&] {
        return requester->requester->call(request, size, reply, reply_size, timeout_ns, ret_reply);
    });
}

int ipcbus_ask(ipcbus_requester* requester, const void* request, size_t size, uint32_t flags,
               int64_t timeout_ns, uint64_t* ret_request) {
    if (ret_request == nullptr || (flags & ~IPCBUS_ASK_ALL) != 0) {
        return failed(EINVAL, ret_request == nullptr ? "ret_request is NULL" : "unknown flags");
    }
    return guarded([&] {
        return requester->requester->ask(request, size, (flags & IPCBUS_ASK_ALL) != 0, timeout_ns,
                                         ret_request);
    });
}

int ipcbus_next_reply(ipcbus_requester* requester, void* buffer, size_t size, int64_t timeout_ns,
                      struct ipcbus_reply* ret_reply) {
    if (ret_reply == nullptr) {
        return failed(EINVAL, "ret_reply is NULL");
    }
    return guarded(
        [&] { return requester->requester->next_reply(buffer, size, timeout_ns, ret_reply); });
}

int ipcbus_abandon(ipcbus_requester* requester, uint64_t request) {
    return guarded([&] { return requester->requester->abandon(request); });
}

uint32_t ipcbus_responder_count(const ipcbus_requester* requester) {
    return requester->requester->responder_count();
}

int ipcbus_wait_responders(ipcbus_requester* requester, uint32_t count, int64_t timeout_ns) {
    return guarded([&] { return requester->requester->wait_responders(count, timeout_ns); });
}

size_t ipcbus_request_bytes_max(const ipcbus_requester* requester) {
    return requester->requester->request_bytes_max();
}

int ipcbus_serve(ipcbus_bus* bus, const char* filter,
                 const struct ipcbus_responder_options* options,
                 ipcbus_responder** ret_responder) {
    return guarded([&]() -> int {
        ipcbus_responder_options given;
        if (const int error = take_options(options, &given); error != 0) {
            return error;
        }
        if (bus->bus->in_child()) {
            return ipcbus::client::used_after_fork();
        }
        if (filter == nullptr || ret_responder == nullptr) {
            return failed(EINVAL, "filter or ret_responder is NULL");
        }
        auto responder = Responder::create(
            *bus->bus, filter,
            ResponderOptions{given.max_block_ns == 0 ? kUsualBlockNs : given.max_block_ns,
                             given.spin_ns});
        if (!responder.ok()) {
            return failed(responder.error());
        }
        return adopted(*bus->bus, new ipcbus_responder{std::move(responder).value()},
                       ret_responder);
    });
}

void ipcbus_responder_free(ipcbus_responder* responder) {
    if (responder != nullptr) {
        destroy(responder, responder->responder);
    }
}

int ipcbus_next_request(ipcbus_responder* responder, void* buffer, size_t size, int64_t timeout_ns,
                        struct ipcbus_request* ret_request) {
    if (ret_request == nullptr) {
        return failed(EINVAL, "ret_request is NULL");
    }
    return guarded(
        [&] { return responder->responder->next(buffer, size, timeout_ns, ret_request); });
}

int ipcbus_respond(ipcbus_responder* responder, const struct ipcbus_request* request,
                   const void* reply, size_t size, uint32_t status, uint32_t flags) {
    if (request == nullptr || (flags & ~IPCBUS_REPLY_MORE) != 0) {
        return failed(EINVAL, request == nullptr ? "request is NULL" : "unknown flags");
    }
    return guarded([&] {
        return responder->responder->respond(request->requester, request->sequence, reply, size,
                                             status, (flags & IPCBUS_REPLY_MORE) != 0);
    });
}

uint32_t ipcbus_requester_count(const ipcbus_responder* responder) {
    return responder->responder->requester_count();
}

}  // extern "C"
