/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipcbus.h - publish to and subscribe from the message bus of this host. C ABI of libipcbus.
 *
 * HANDLES. An `ipcbus_bus` is this process's connection to one bus: a client. Publishers,
 * subscribers and sets are made from it and used by one thread at a time; different handles of one
 * client may be used by different threads at once, and so may the client itself. There is no
 * background thread (but see ipcbus_fd): whatever must be heard from the daemon is heard inside the
 * calls you make.
 *
 * RESULTS. A function returns 0 (or a count) or a negative errno of this closed table, and leaves
 * what its ret_ parameters point to untouched on failure. ipcbus_last_error() tells in words.
 *
 *   -EAGAIN           nothing to receive, or no room in the ring, and the timeout was 0
 *   -ETIMEDOUT        the deadline passed first
 *   -EINTR            a signal handler ran during the wait; nothing was received or published
 *   -ESTALE           messages were lost (receive, borrow) or overwritten while lent (release)
 *   -EMSGSIZE         larger than a message may be, or than the buffer given
 *   -ESHUTDOWN        the connection is gone and was not to be made again
 *   -ECONNREFUSED     no daemon answers at that address
 *   -EACCES           not allowed: by the rules of the bus, or by the permissions of its socket
 *   -EDQUOT -ENOSPC -EMFILE -ENOMEM   a limit of the bus (the text names it) or of the system
 *   -EDEADLK          it would wait for the calling thread itself, in a reader of the same client
 *   -EBUSY            a claim, a loan or another handle is in the way
 *   -ECHILD           the handle was made before a fork, in the parent
 *   -EINVAL -ENOENT -ENAMETOOLONG     an argument is wrong; there is no such thing
 *   -EPROTO -EPROTONOSUPPORT          the other side breaks the protocol, or speaks another version
 *
 * TIMES are nanoseconds on the monotonic clock: negative waits for ever, 0 does not wait for data
 * or room; right after the connection was made again a call may wait for the new daemon's answer.
 * OPTION STRUCTS begin with struct_size = sizeof of the struct you compiled with; zero the rest for
 * defaults (IPCBUS_INIT does both). NULL options are all defaults.
 * SIGNALS. Waits for data or room, and a connect that waits for a daemon, end with -EINTR when a
 * signal handler ran (but not while they spin: spin_ns; at most 50 us for room). Requests to the
 * daemon (advertise, subscribe) go on. One that does not answer within 10 s is taken for gone.
 * FORK. A child inherits no connection: its handles answer -ECHILD. Close them there, or exec.
 *
 * See ipcbus(3) for an overview with examples and ipcbus-protocol(7) for what happens underneath.
 */
#ifndef IPCBUS_H
#define IPCBUS_H

#include <ipcbus/version.h>

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define IPCBUS_EXPORT __attribute__((visibility("default")))
#else
#define IPCBUS_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A client: one connection to one bus. */
typedef struct ipcbus_bus ipcbus_bus;
/* The right to write a topic, or all topics under a filter. */
typedef struct ipcbus_publisher ipcbus_publisher;
/* A filter, and what has been published under it. */
typedef struct ipcbus_subscriber ipcbus_subscriber;
/* Several subscribers that one thread waits for at once. */
typedef struct ipcbus_set ipcbus_set;

/* Zeroed options of the right size: struct ipcbus_subscriber_options o = IPCBUS_INIT(o); */
#ifdef __cplusplus
} /* a template has C++ linkage */
template <class Options>
inline Options ipcbus_init() {
    Options options{};
    options.struct_size = sizeof(Options);
    return options;
}
extern "C" {
#define IPCBUS_INIT(variable) ipcbus_init<decltype(variable)>()
#else
#define IPCBUS_INIT(variable) { .struct_size = sizeof(variable) }
#endif

#define IPCBUS_FOREVER ((int64_t)-1)

/* ------------------------------------------------------------------------------- connection */

/* flags of ipcbus_connect_options */
#define IPCBUS_NO_RECONNECT 1u /* when the connection is lost, calls answer -ESHUTDOWN */

struct ipcbus_connect_options {
    size_t struct_size;
    /* "unix:/path", or "tls:host:port" or "tcp:host:port" (plain text) for the bus of another host.
     * NULL: $IPCBUS_ADDRESS; then
     * $XDG_RUNTIME_DIR/ipcbus/bus.sock if it is there; then /run/ipcbus/bus.sock. Copied. */
    const char *address;
    /* What the client calls itself in the daemon's log, at most 64 bytes. NULL: the name of the
     * program. Copied. */
    const char *name;
    /* How long to try, ns; also when nobody listens yet. 0: once, and 5 s for the answer (over TCP
     * also 5 s for the connection). */
    int64_t timeout_ns;
    uint32_t flags; /* IPCBUS_NO_RECONNECT */
    uint32_t reserved;
    /* For "tls:": files in PEM, each read again for every connection; copied. The authorities that
     * the server may be certified by. NULL: $IPCBUS_CA_FILE; then the system's. */
    const char *ca_file;
    /* What is shown to a server that asks, and the key to it, a file that only its owner can read;
     * both or none. NULL: $IPCBUS_CERTIFICATE_FILE and $IPCBUS_KEY_FILE; then nothing is shown. */
    const char *certificate_file;
    const char *key_file;
    /* The name that the server's certificate must be for. NULL: $IPCBUS_SERVER_NAME; then the host
     * of the address. It is verified always. */
    const char *server_name;
};

/*
 * Connects to the bus and makes a client. The caller owns *ret_bus: ipcbus_close() it, after the
 * handles made from it. Errors: -ECONNREFUSED, -EACCES, -ETIMEDOUT, -EINTR, -EPROTONOSUPPORT,
 * -EDQUOT, -ENOSPC, -EMFILE, -ENOMEM, -EINVAL, -ENAMETOOLONG, -EPROTO. Over TLS -EACCES is also:
 * the server's certificate is not believed, or ours is not, or is missing; and -ENOENT: a file is.
 */
IPCBUS_EXPORT int ipcbus_connect(const struct ipcbus_connect_options *options,
                                 ipcbus_bus **ret_bus);

/* Closes the connection and frees the client. NULL is fine. Publishers, subscribers and sets made
 * from it are closed, too; they must not be used any more. */
IPCBUS_EXPORT void ipcbus_close(ipcbus_bus *bus);

/* states of ipcbus_state() */
#define IPCBUS_CONNECTED 0
#define IPCBUS_ORPHANED 1 /* the daemon is away: rings go on between those attached */
#define IPCBUS_CLOSED 2   /* lost, and IPCBUS_NO_RECONNECT was asked for */

/* Whether the daemon is there. Looks at the connection and, when it is lost, tries to make it again
 * (at most ten times a second; publish and receive do so, too). Waits for a second at most, and
 * only if a daemon has come and does not answer. Any thread. */
IPCBUS_EXPORT int ipcbus_state(ipcbus_bus *bus);

/* How often the connection was made again since ipcbus_connect. Any thread. */
IPCBUS_EXPORT uint64_t ipcbus_reconnects(const ipcbus_bus *bus);

/* ------------------------------------------------------------------------------- publishing */

struct ipcbus_publisher_options {
    size_t struct_size;
    /* Bytes of the ring, rounded up to the next size that the bus makes: powers of two from 64 KiB
     * up to its limit for the topic. 0: as configured for the topic. */
    uint64_t ring_bytes;
    /* The largest message that will be published, bytes. 0: as large as the ring allows, which is
     * a quarter of it. */
    uint64_t message_bytes_max;
    /* How long a publish may wait for slow reliable readers, ns. 0: IPCBUS_FOREVER, in which no
     * single reader can hold it for longer than the bus's stall_timeout. Use ipcbus_set_max_block
     * for not waiting at all. */
    int64_t max_block_ns;
};

/*
 * Makes a publication of `topic`; with wildcards (`plant/#`) one that publishes any topic under it,
 * each message naming its own (ipcbus_publish_to). When it returns, everyone subscribed is
 * attached: no message published from now on is missed. The caller owns *ret_publisher.
 * Errors: -EINVAL (topic, sizes), -EDQUOT, -ENOSPC, -EMFILE, -EACCES, -ESHUTDOWN.
 */
IPCBUS_EXPORT int ipcbus_advertise(ipcbus_bus *bus, const char *topic,
                                   const struct ipcbus_publisher_options *options,
                                   ipcbus_publisher **ret_publisher);

/* Ends the publication; readers read what is there. Frees the handle; an open claim is aborted. */
IPCBUS_EXPORT void ipcbus_unadvertise(ipcbus_publisher *publisher);

/* Changes how long a publish may wait: ns, negative for ever, 0 not at all (-EAGAIN). */
IPCBUS_EXPORT int ipcbus_set_max_block(ipcbus_publisher *publisher, int64_t max_block_ns);

/*
 * Publishes one message of `size` bytes (0 is fine). When it returns 0, the message is in the ring
 * and every sleeping reader has been woken; no system call was made unless somebody slept.
 * Errors, with nothing published: -EAGAIN, -ETIMEDOUT, -EINTR, -EMSGSIZE, -EDEADLK (a reader in the
 * way is this thread itself, with a subscriber of the same client), -EBUSY (a claim is open),
 * -EINVAL (the publication is under a filter), -ESHUTDOWN, -ECHILD.
 * A subscriber of another client (ipcbus_bus) in the same thread is a reader like any other: it is
 * waited for, up to max_block_ns or the bus's stall_timeout, and then loses messages.
 */
IPCBUS_EXPORT int ipcbus_publish(ipcbus_publisher *publisher, const void *data, size_t size);

/* The same under a filter: `topic` must match it. */
IPCBUS_EXPORT int ipcbus_publish_to(ipcbus_publisher *publisher, const char *topic,
                                    const void *data, size_t size);

/* A message to publish; where its bytes are, which must stay until the call returns. */
struct ipcbus_buffer {
    const void *data;
    size_t size;
};

/*
 * Publishes `count` messages in order, with one fence and one look for sleepers at the end.
 * Returns how many were published: fewer than `count` when the next one failed; its error comes
 * with the next call, or at once if it was the first.
 */
IPCBUS_EXPORT int64_t ipcbus_publish_many(ipcbus_publisher *publisher,
                                          const struct ipcbus_buffer *messages, size_t count);

/*
 * Lends room for one message of at most `size` bytes in the ring itself, to be filled in place.
 * *ret_data is aligned to 16 bytes and valid until commit or abort; one claim at a time.
 * Errors: as ipcbus_publish.
 */
IPCBUS_EXPORT int ipcbus_claim(ipcbus_publisher *publisher, size_t size, void **ret_data);
/* The same under a filter. */
IPCBUS_EXPORT int ipcbus_claim_to(ipcbus_publisher *publisher, const char *topic, size_t size,
                                  void **ret_data);
/* Publishes the first `size` bytes of the claim (at most what was claimed: -EINVAL, still open). */
IPCBUS_EXPORT int ipcbus_commit(ipcbus_publisher *publisher, size_t size);
/* Gives the claim back; nothing is published. -ENOENT if there is none. */
IPCBUS_EXPORT int ipcbus_abort(ipcbus_publisher *publisher);

/* Attached readers at this moment: one load. */
IPCBUS_EXPORT uint32_t ipcbus_subscriber_count(const ipcbus_publisher *publisher);

/* Waits until at least `count` readers are attached. -ETIMEDOUT, -EAGAIN, -EINTR, -ESHUTDOWN,
 * -EBUSY (a claim is open). */
IPCBUS_EXPORT int ipcbus_wait_subscribers(ipcbus_publisher *publisher, uint32_t count,
                                          int64_t timeout_ns);

/* Largest message of this publication, bytes: a quarter of its ring, or less where
 * message_bytes_max or the configuration says so. */
IPCBUS_EXPORT size_t ipcbus_message_bytes_max(const ipcbus_publisher *publisher);
/* Bytes of its ring. */
IPCBUS_EXPORT uint64_t ipcbus_ring_bytes(const ipcbus_publisher *publisher);

/* ------------------------------------------------------------------------------ subscribing */

/* modes of a subscription */
#define IPCBUS_RELIABLE 0u /* the publisher waits for it, up to stall_timeout */
#define IPCBUS_LOSSY 1u    /* never holds a publisher; overtaken, it goes on at the oldest */
#define IPCBUS_LATEST 2u   /* lossy, and each receive goes to the newest message */

struct ipcbus_subscriber_options {
    size_t struct_size;
    uint32_t mode; /* IPCBUS_RELIABLE, IPCBUS_LOSSY, IPCBUS_LATEST */
    uint32_t reserved;
    /* How long a wait may spin before it sleeps, ns: 0 adapts; negative never spins; very large
     * never sleeps. */
    int64_t spin_ns;
    /* How many messages of each publication to begin with, before what is published from now on:
     * the last so many, or as many as its ring still has (about three quarters of it, when it is
     * full). 0: none. IPCBUS_OLDEST: as many as there are. Nothing between them and what comes is
     * lost or received twice. Under a filter publication all its messages count. What a publisher
     * has said goes with it, and rings begin anew after a restart of the daemon. Who is lossy may
     * lose the oldest before it has read them; for IPCBUS_LATEST any number is 1. */
    uint64_t history;
};
#define IPCBUS_OLDEST UINT64_MAX

/*
 * Subscribes to every topic that `filter` matches (`+`: one level, `#`: all the rest), now and
 * later. When it returns, no message published afterwards is missed, and what `history` asked for
 * is there to be received (but for publications that the daemon has no room to attach just now:
 * these, and their history, come later). The caller owns *ret_subscriber. Errors: -EINVAL,
 * -EDQUOT, -EMFILE, -EACCES, -ESHUTDOWN; with `history`, -EPROTONOSUPPORT (the daemon is older
 * than that) and -ETIMEDOUT (not all there is has come, and for 10 s nothing).
 */
IPCBUS_EXPORT int ipcbus_subscribe(ipcbus_bus *bus, const char *filter,
                                   const struct ipcbus_subscriber_options *options,
                                   ipcbus_subscriber **ret_subscriber);

/* Ends the subscription and frees the handle; loans end, too. */
IPCBUS_EXPORT void ipcbus_unsubscribe(ipcbus_subscriber *subscriber);

/* One received message. Filled by the library. */
struct ipcbus_message {
    const void *data;     /* payload; see the call that filled it for how long it is valid */
    size_t size;          /* bytes of payload */
    const char *topic;    /* zero-terminated; valid until the next call on the subscriber */
    size_t topic_size;    /* bytes of topic */
    uint64_t sequence;    /* number of the message in its publication */
    uint64_t publication; /* which publication, in this bus */
    uint64_t lost;        /* messages of the publication lost just before this one (or -ESTALE) */
};

/*
 * Receives one message by copying it into `buffer` (which may be NULL if `size` is 0). Delivery is
 * in order, once, per publication. *ret_message (may be NULL) tells size, topic, sequence; its data
 * is `buffer`.
 *   -EMSGSIZE  the buffer is too small: ret_message->size tells what it takes; the message stays
 *   -ESTALE    the publisher has overtaken this subscriber, or went on in another ring before it
 *              was attached there: ret_message->lost messages are lost, no message was received;
 *              the next call goes on with the oldest there is
 *   -EPROTO    a publisher has broken the protocol and is heard no more; the others are
 *   -ENOMEM -EMFILE   a publication that matches could not be attached to; the others are heard
 *   -EAGAIN -ETIMEDOUT -EINTR -ESHUTDOWN -EBUSY (a loan is open) -ECHILD
 * To a subscriber of mode IPCBUS_LATEST what it passes over is no error: it is in the `lost` of the
 * message that it gets, and ipcbus_lost() counts it.
 */
IPCBUS_EXPORT int ipcbus_receive(ipcbus_subscriber *subscriber, void *buffer, size_t size,
                                 int64_t timeout_ns, struct ipcbus_message *ret_message);

/*
 * Lends one message where it lies in the ring: *ret_message's data is valid until ipcbus_release.
 * The bytes can be changed by a hostile publisher at any time: validate a copy. A reliable
 * subscriber's loan holds the publisher back (up to stall_timeout); a lossy one's may be
 * overwritten, which release tells. Errors as ipcbus_receive, but -EMSGSIZE.
 */
IPCBUS_EXPORT int ipcbus_borrow(ipcbus_subscriber *subscriber, int64_t timeout_ns,
                                struct ipcbus_message *ret_message);

/*
 * Lends up to `count` messages of one publication at once, in order; waits for the first alone.
 * Returns how many (at least 1). One ipcbus_release gives all of them back. Their topics are those
 * of the ring (not zero-terminated, to be used only before release) under a filter publication.
 */
IPCBUS_EXPORT int64_t ipcbus_borrow_many(ipcbus_subscriber *subscriber, int64_t timeout_ns,
                                         struct ipcbus_message *ret_messages, size_t count);

/* Gives back what was borrowed. -ESTALE: it was overwritten while lent: what was read from it must
 * be thrown away (the messages count as lost). -ENOENT: nothing was borrowed. */
IPCBUS_EXPORT int ipcbus_release(ipcbus_subscriber *subscriber);

/*
 * A descriptor for poll, epoll, io_uring and event loops of every kind: readable while the
 * subscriber has something to receive or to report (level-triggered). When it is readable, receive
 * (or borrow and release) with a timeout of 0 until that answers -EAGAIN: then it is not readable
 * until there is more (nor is it after -ETIMEDOUT, or while a loan is open and a receive has said
 * so, -EBUSY). Until the first -EAGAIN, and after other errors, -EINTR too, it is readable. Now and
 * then it becomes readable although there is nothing: the library looks around, as it does in a
 * wait, 16 ms after a message (4 ms while it reads what a former daemon's publishers left), then
 * ever more rarely, at last every 10 s.
 * The same descriptor each time; it belongs to the subscriber, until ipcbus_unsubscribe: neither
 * read nor write nor close it. Other calls on the subscriber may come at any time.
 * While it is not readable publishers do what they do for a sleeper: one system call for the first
 * message. Otherwise it costs them nothing. The library waits by a private io_uring, or, where that
 * is refused or older than Linux 6.7, by a small thread that blocks all signals; one for each
 * descriptor: put many subscribers into a set. What io_urings a thread has had it keeps, for its
 * next descriptors, until it ends: to close one would end its epoll_wait with EINTR.
 * Errors: -EBUSY (the subscriber is in a set), -EMFILE, -ENOMEM, -ECHILD.
 */
IPCBUS_EXPORT int ipcbus_fd(ipcbus_subscriber *subscriber);

/*
 * For programs whose loop is made of signals, as mq_notify: queues `signal` to this process, with
 * `value` as its si_value (sigqueue), when the subscriber goes from empty to not empty: each time
 * that a receive has answered -EAGAIN or -ETIMEDOUT and something comes after it. So begin with
 * receiving until -EAGAIN. A signal may come although there is nothing, when the library looks
 * around (see ipcbus_fd). Choose a real-time signal (SIGRTMIN + n), which is queued, and block it:
 * no function may be called in its handler. 0 ends it. A small thread sends it; ipcbus_fd works
 * beside it. Errors: -EINVAL (signal), -EBUSY (the subscriber is in a set), -EMFILE, -ENOMEM,
 * -ECHILD.
 */
IPCBUS_EXPORT int ipcbus_notify(ipcbus_subscriber *subscriber, int signal, void *value);

/* Messages lost so far, in all publications of this subscription. */
IPCBUS_EXPORT uint64_t ipcbus_lost(const ipcbus_subscriber *subscriber);
/* Publications attached right now. */
IPCBUS_EXPORT uint32_t ipcbus_publication_count(const ipcbus_subscriber *subscriber);

/* ------------------------------------------------------------------ waiting for several at once */

/* A set of subscribers of one client, for one thread. The caller owns *ret_set. */
IPCBUS_EXPORT int ipcbus_set_create(ipcbus_bus *bus, ipcbus_set **ret_set);
/* Frees the set; its subscribers live on, each by itself. */
IPCBUS_EXPORT void ipcbus_set_free(ipcbus_set *set);
/* A subscriber is in one set at most, and in none if it has an ipcbus_fd of its own (-EBUSY); in a
 * set it is used by that set's thread. */
IPCBUS_EXPORT int ipcbus_set_add(ipcbus_set *set, ipcbus_subscriber *subscriber);
IPCBUS_EXPORT int ipcbus_set_remove(ipcbus_set *set, ipcbus_subscriber *subscriber);
/*
 * Waits until a subscriber of the set has something to receive (or to report: lost messages), and
 * tells which, in turn when there are several. -EAGAIN, -ETIMEDOUT, -EINTR, -ESHUTDOWN, -ENOENT
 * (the set is empty).
 */
IPCBUS_EXPORT int ipcbus_set_wait(ipcbus_set *set, int64_t timeout_ns,
                                  ipcbus_subscriber **ret_subscriber);
/* As ipcbus_fd, for the whole set: readable until ipcbus_set_wait with a timeout of 0 has answered
 * -EAGAIN (or -ENOENT: until something is added). Errors: -EMFILE, -ENOMEM, -ECHILD. */
IPCBUS_EXPORT int ipcbus_set_fd(ipcbus_set *set);

/* --------------------------------------------------------------------------------- about */

/* The last error of this thread in words, with the remedy where there is one; "" if none. Valid
 * until the thread's next call into the library. */
IPCBUS_EXPORT const char *ipcbus_last_error(void);
/* The version of the library that runs, "0.1.0". */
IPCBUS_EXPORT const char *ipcbus_version(void);
/* Versions of the control protocol (major << 16 | minor) and of the shared-memory layout. */
IPCBUS_EXPORT uint32_t ipcbus_protocol_version(void);
IPCBUS_EXPORT uint32_t ipcbus_layout_version(void);

#ifdef __cplusplus
}
#endif

#endif
