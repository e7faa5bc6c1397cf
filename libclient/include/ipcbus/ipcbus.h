/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipcbus.h - publish, subscribe, ask and answer on this host's message bus. C ABI of libipcbus.
 *
 * HANDLES. An `ipcbus_bus` is this process's connection to one bus: a client. Publishers,
 * subscribers, sets, requesters and responders are made from it and used by one thread at a time;
 * different handles of one client may be used by different threads at once, and so may the client.
 * There is no background thread (but see ipcbus_fd): whatever must be heard from the daemon is
 * heard inside the calls you make.
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
 *   -EHOSTUNREACH     nobody serves the topic of the request: nothing was asked
 *   -EPIPE            who was asked has gone before answering; or who asked, before the answer
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
/* Asks whoever serves one topic. */
typedef struct ipcbus_requester ipcbus_requester;
/* Serves the topics under a filter: gets requests and answers them. */
typedef struct ipcbus_responder ipcbus_responder;

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

/* Closes the connection and frees the client. NULL is fine. All handles made from it are closed,
 * too; they must not be used any more. */
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

/* --------------------------------------------------------------------------- requests, replies */

/*
 * A requester sends requests to one topic; each is handled by one of the responders that serve it,
 * or, on demand, by all of them. Requests are no messages: subscribers do not get them, nor do
 * responders get what is published. All responders of a topic can read its requests; a reply is
 * read by nobody but who asked. Nothing is handled twice by the library: a request whose responder
 * has gone, or lets the deadline pass, may have been handled or not, and asking again is up to you.
 * Who may connect may serve: who must know who answers looks at the uid of the reply.
 *
 * Responders do not wait for each other: one that works on a request holds nobody up that is asked
 * meanwhile. Only a request to itself that it has not got yet keeps its place in the ring; when
 * that has kept its requester from asking anything for the stall_timeout of the bus, it is given
 * up, and the requester told so (-EPIPE). Every request wakes all responders of its topic that
 * sleep.
 */
struct ipcbus_requester_options {
    size_t struct_size;
    /* The largest request, bytes. 0: 16 KiB. The ring for requests has room for four of these. */
    uint64_t request_bytes_max;
    /* The largest reply, bytes. 0: 16 KiB; 1024 is the least that makes a difference. Each
     * responder answers through a ring of four of these, whose bytes count as the requester's (of
     * 32 rings for responders of one other uid; more pay themselves). */
    uint64_t reply_bytes_max;
    /* As in ipcbus_subscriber_options, for waiting for replies. */
    int64_t spin_ns;
};

/*
 * Makes a requester for `topic`, which has no wildcards. When it returns, everyone who serves the
 * topic can be asked. The caller owns *ret_requester. Errors: -EINVAL (topic), -EMSGSIZE (no ring
 * is as large), -EDQUOT, -ENOSPC, -EMFILE, -EACCES, -EPROTONOSUPPORT (the bus is of an older
 * version), -ESHUTDOWN.
 */
IPCBUS_EXPORT int ipcbus_requester_create(ipcbus_bus *bus, const char *topic,
                                          const struct ipcbus_requester_options *options,
                                          ipcbus_requester **ret_requester);
/* Frees the requester; replies that are still awaited are awaited no more. NULL is fine. */
IPCBUS_EXPORT void ipcbus_requester_free(ipcbus_requester *requester);

/* flags of ipcbus_reply */
#define IPCBUS_REPLY_MORE 1u /* the same responder sends another reply to the same request */

/* One reply. Filled by the library. */
struct ipcbus_reply {
    const void *data;   /* the buffer that was given */
    size_t size;        /* bytes of it that are the reply, or that it takes (-EMSGSIZE) */
    uint64_t request;   /* which request it answers, as ipcbus_ask told; also with -EPIPE */
    uint64_t responder; /* who answered: a number that is its own as long as both are connected to
                         * the same daemon; after a restart it may be another one's */
    uint32_t status;    /* 0, or what the responder says that went wrong: its own numbers */
    uint32_t flags;     /* IPCBUS_REPLY_MORE */
    uint32_t uid;       /* of the responder's process, as the kernel told it */
    uint32_t reserved;
    uint64_t lost;      /* with -ESTALE: how many replies were lost */
};

/*
 * Asks one responder and waits for its reply, which goes to `reply`, of `reply_size` bytes (NULL if
 * that is 0). `timeout_ns` is for all of it; the first time that two have to do with each other, a
 * ring is made. *ret_reply tells the rest; it must not be NULL. Of several replies to it the first
 * is returned. It is asked who has least to answer, in turn among several.
 *   -EHOSTUNREACH  nobody serves the topic; known at once, nothing was sent
 *   -EPIPE         the responder has ended, or broken the protocol, before it answered: at once. Or
 *                  it has not read the request for too long (see above)
 *   -ETIMEDOUT -EAGAIN -EINTR   there is no reply yet; a later one is thrown away. (Or there was no
 *                  room for the request in time, and nothing was sent.)
 *   -EMSGSIZE      the request is larger than request_bytes_max: nothing was sent. Or the reply
 *                  than the buffer: ret_reply->size tells what it takes, ipcbus_next_reply gets it
 *   -ESTALE        replies were lost, because this requester took none for long
 *   -EBUSY         replies to ipcbus_ask are awaited
 *   -EDEADLK       only this very thread serves the topic: it has received from that responder, of
 *                  the same client, and could not answer while it waits. Nothing was sent
 *   -EDQUOT -ENOSPC -EMFILE -ENOMEM   no ring can be made for the responder to answer in: the text
 *                  names the limit. It may have handled the request
 *   -ESHUTDOWN -ECHILD
 * IPCBUS_FOREVER may be for ever: a responder that lives need not answer.
 */
IPCBUS_EXPORT int ipcbus_call(ipcbus_requester *requester, const void *request, size_t size,
                              void *reply, size_t reply_size, int64_t timeout_ns,
                              struct ipcbus_reply *ret_reply);

/* flags of ipcbus_ask */
#define IPCBUS_ASK_ALL 1u /* everyone who serves the topic at this moment; else one of them */

/*
 * Sends a request of `size` bytes (0 is fine) and returns; several may be under way. `timeout_ns`
 * is how long to wait for room among requests that were not read yet. *ret_request is its number,
 * which no other request of this requester has. Made for some hundreds of requests under way: what
 * is awaited is searched with each reply. Errors, with nothing sent: -EHOSTUNREACH, -EAGAIN,
 * -ETIMEDOUT, -EINTR, -EMSGSIZE, -EDEADLK (this thread serves the topic itself, and does not read),
 * -EINVAL (unknown flags), -ESHUTDOWN, -ECHILD.
 */
IPCBUS_EXPORT int ipcbus_ask(ipcbus_requester *requester, const void *request, size_t size,
                             uint32_t flags, int64_t timeout_ns, uint64_t *ret_request);

/*
 * Takes the next reply to any request that was asked, into `buffer` (NULL if `size` is 0).
 *   -ENOENT     all have been answered or given up: there is nothing to wait for
 *   -EPIPE      a responder has gone, or has not read it for too long; ret_reply->request will not
 *               be answered (by this one, if all were asked). Told once for each that it owed
 *   -EDQUOT -ENOSPC -EMFILE -ENOMEM   the same, if ret_reply->request is not 0: no ring can be made
 *               for it to answer in. If 0, a ring of replies cannot be read
 *   -EMSGSIZE   the buffer is too small: ret_reply->size tells what it takes; the reply stays
 *   -ESTALE     ret_reply->lost replies of one responder were lost
 *   -EAGAIN -ETIMEDOUT -EINTR -ESHUTDOWN -ECHILD
 * Replies for which there is no room in their ring for longer than the responder waits (its
 * max_block_ns) are dropped, and are awaited until they are abandoned: take them in time.
 */
IPCBUS_EXPORT int ipcbus_next_reply(ipcbus_requester *requester, void *buffer, size_t size,
                                    int64_t timeout_ns, struct ipcbus_reply *ret_reply);

/* Replies to that request are awaited no more; who owes one is asked last for a while. -ENOENT if
 * none is. */
IPCBUS_EXPORT int ipcbus_abandon(ipcbus_requester *requester, uint64_t request);

/* Who serves the topic at this moment: one load. */
IPCBUS_EXPORT uint32_t ipcbus_responder_count(const ipcbus_requester *requester);
/* Waits until at least `count` serve the topic. -ETIMEDOUT, -EAGAIN, -EINTR, -ESHUTDOWN. */
IPCBUS_EXPORT int ipcbus_wait_responders(ipcbus_requester *requester, uint32_t count,
                                         int64_t timeout_ns);
/* The largest request, bytes. */
IPCBUS_EXPORT size_t ipcbus_request_bytes_max(const ipcbus_requester *requester);

struct ipcbus_responder_options {
    size_t struct_size;
    /* How long a reply may wait for a requester that does not take its replies, ns. 0: one second;
     * 1 is as good as not at all. Once that has passed, replies to it that do not fit at once are
     * dropped until one fits. All requesters of one uid together have so much in any ten times
     * that: no user can hold a responder that others use for more than a tenth of the time. */
    int64_t max_block_ns;
    /* As in ipcbus_subscriber_options, for waiting for requests. */
    int64_t spin_ns;
};

/*
 * Serves every topic that `filter` matches, now and later. When it returns, requests come. Several
 * that serve a topic share its requests. The caller owns *ret_responder. Errors: -EINVAL, -EDQUOT,
 * -EMFILE, -EACCES, -EPROTONOSUPPORT, -ESHUTDOWN.
 */
IPCBUS_EXPORT int ipcbus_serve(ipcbus_bus *bus, const char *filter,
                               const struct ipcbus_responder_options *options,
                               ipcbus_responder **ret_responder);
/* Serves no more, and frees the handle: requests that are not answered fail at once (-EPIPE). NULL
 * is fine. */
IPCBUS_EXPORT void ipcbus_responder_free(ipcbus_responder *responder);

/* One request. Filled by the library. */
struct ipcbus_request {
    const void *data;   /* the buffer that was given */
    size_t size;        /* bytes of it that are the request, or that it takes (-EMSGSIZE) */
    const char *topic;  /* zero-terminated; valid until the next call on the responder */
    size_t topic_size;  /* bytes of topic */
    uint64_t requester; /* who asks: a number of this responder's, never used for another */
    uint64_t sequence;  /* which request of that requester's */
    uint32_t uid;       /* of the requester's process, as the kernel told it */
    uint32_t reserved;
};

/*
 * Gets the next request, copied into `buffer` (NULL if `size` is 0). Each is to be answered, sooner
 * or later, by ipcbus_respond with the same *ret_request: who asks waits for it.
 *   -EMSGSIZE   the buffer is too small: ret_request->size tells what it takes; the request stays
 *   -EPROTO     a requester has broken the protocol and is heard no more; the others are
 *   -EAGAIN -ETIMEDOUT -EINTR -ENOMEM -EMFILE -ESHUTDOWN -ECHILD
 */
IPCBUS_EXPORT int ipcbus_next_request(ipcbus_responder *responder, void *buffer, size_t size,
                                      int64_t timeout_ns, struct ipcbus_request *ret_request);

/*
 * Answers `request`, of which only requester and sequence count, with `size` bytes (0 is fine).
 * `status` 0 says that it went well. With IPCBUS_REPLY_MORE in `flags` another answer to the same
 * request follows; the last one goes without. In any order, once for each; what answers a request
 * that is not awaited any more is thrown away by its requester.
 *   -EPIPE      the requester has gone
 *   -EMSGSIZE   larger than the requester takes (its reply_bytes_max): answer with less
 *   -ETIMEDOUT -EAGAIN   the requester does not take its replies: this one is dropped
 *   -EDQUOT -ENOSPC -EMFILE -ENOMEM   no ring can be made for this requester: by its uid's limits
 *               (bytes) or by this one's (publications). It is told so
 *   -EINTR -EDEADLK -EINVAL (no such request, unknown flags) -ESHUTDOWN -ECHILD
 */
IPCBUS_EXPORT int ipcbus_respond(ipcbus_responder *responder, const struct ipcbus_request *request,
                                 const void *reply, size_t size, uint32_t status, uint32_t flags);

/* Who may ask at this moment: requesters of topics under the filter. */
IPCBUS_EXPORT uint32_t ipcbus_requester_count(const ipcbus_responder *responder);

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
