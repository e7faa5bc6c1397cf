/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipcbus.h must compile alone, as strict C11 with all warnings, first in the file; and its macros
 * must work in C. Compiled, linked with the library, and run without a daemon: what is tested is
 * that a C program can name everything, not that a bus works.
 */
#include <ipcbus/ipcbus.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int expect(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "header_c11: %s\n", what);
    }
    return condition ? 0 : 1;
}

int main(void) {
    struct ipcbus_connect_options connect_options = IPCBUS_INIT(connect_options);
    struct ipcbus_publisher_options publisher_options = IPCBUS_INIT(publisher_options);
    struct ipcbus_subscriber_options subscriber_options = IPCBUS_INIT(subscriber_options);
    struct ipcbus_requester_options requester_options = IPCBUS_INIT(requester_options);
    struct ipcbus_responder_options responder_options = IPCBUS_INIT(responder_options);
    struct ipcbus_request request = {.requester = 1};
    struct ipcbus_reply reply = {.flags = IPCBUS_REPLY_MORE};
    struct ipcbus_message message;
    struct ipcbus_buffer buffer = {"payload", 7};
    ipcbus_bus *bus = NULL;
    int failures = 0;

    (void)memset(&message, 0, sizeof message);
    failures += expect(connect_options.struct_size == sizeof connect_options, "IPCBUS_INIT");
    failures += expect(connect_options.address == NULL && connect_options.flags == 0, "zeroed");
    failures += expect(publisher_options.struct_size == sizeof publisher_options, "IPCBUS_INIT");
    failures += expect(publisher_options.max_block_ns == 0, "zeroed");
    failures += expect(subscriber_options.mode == IPCBUS_RELIABLE, "reliable is the default");
    failures += expect(requester_options.struct_size == sizeof requester_options, "IPCBUS_INIT");
    failures += expect(responder_options.max_block_ns == 0, "zeroed");
    failures += expect(request.uid == 0 && reply.flags == 1u && IPCBUS_ASK_ALL == 1u, "structs");
    failures += expect(buffer.size == 7 && message.lost == 0, "structs");
    failures += expect(IPCBUS_FOREVER < 0, "for ever is negative");
    failures += expect(strcmp(ipcbus_version(), IPCBUS_VERSION) == 0, "versions agree");
    failures += expect(ipcbus_protocol_version() >> 16 >= 1, "a protocol version");
    failures += expect(ipcbus_layout_version() >= 1, "a layout version");

    connect_options.address = "unix:/nonexistent/ipcbus-abi-test.sock";
    failures += expect(ipcbus_connect(&connect_options, &bus) == -ECONNREFUSED, "no daemon there");
    failures += expect(bus == NULL, "ret_bus untouched on failure");
    failures += expect(ipcbus_last_error()[0] != '\0', "an error in words");
    failures += expect(ipcbus_connect(&connect_options, NULL) == -EINVAL, "NULL is refused");
    connect_options.struct_size = 1;
    failures += expect(ipcbus_connect(&connect_options, &bus) == -EINVAL, "struct_size is checked");
    ipcbus_close(NULL);
    return failures == 0 ? 0 : 1;
}
