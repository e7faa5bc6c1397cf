# SPDX-License-Identifier: Apache-2.0
"""ipcbus: messages between the processes of one host, through shared memory.

    import ipcbus

    with ipcbus.Bus() as bus:
        readings = bus.subscribe("plant/+/temp")
        bus.advertise("plant/7/temp").publish(b"21.5")
        print(readings.receive(timeout=1))

A Bus is this process's connection to the daemon. Publishers, Subscribers and Sets are made from it;
all of them are context managers, and all end when they are closed or not referred to any more.

TIMES are seconds, int or float. A timeout of None waits without a limit, 0 not at all. When it is
over, Timeout is raised (also a TimeoutError; with 0 its subclass WouldBlock).
ERRORS are IpcbusError, which is an OSError, with a subclass for each errno; a wrong type or a
closed object is TypeError or ValueError, as everywhere in Python.
LOSSES are told: where messages were lost, receiving raises LostMessages once, and the next call
goes on with the oldest message there is; so does a new `for` over the same Subscriber. Who gives
`subscribe` an `on_lost` function has it called with the LostMessages instead, and nothing is
raised.
SIGNALS. While a call waits, Python's signal handlers run, and Ctrl-C raises KeyboardInterrupt;
otherwise the wait goes on with the time that is left. It takes a second at most.
THREADS. One thread at a time uses a Publisher, a Subscriber or a Set: another one gets Busy at
once, and a Subscriber in a Set counts as used while the Set waits. Different objects, and the Bus,
may be used at once: the GIL is free during each call.
EVENT LOOPS. A Subscriber and a Set have a fileno(): `select`, `selectors` and asyncio take them as
they are. It is readable while there is something to receive, and until receive(timeout=0) (wait of
a Set) has raised WouldBlock: so receive until it does.
FORK. A child inherits no connection: what was made before the fork raises Forked there.

MEMORY IN PLACE. `with publisher.claim(n) as view` and `with subscriber.borrow() as message` give
memoryviews into the ring itself. At the end of the block they are released, and using them raises
ValueError. What was made of them, a slice or a numpy array, Python cannot take away: if such a
thing is still alive then, the block ends with BufferError. So `del` it before, keep it in a
function that returns before, or copy it. Nothing dangles in any case: the memory stays, a claim is
not published, and the publisher (the subscriber) answers Busy until the last such thing is gone;
then the claim or the message is given back by itself at the next call. Meanwhile a reliable
subscriber holds its publisher back, for stall_timeout at most, and then loses messages, like any
that is too slow.
"""

import enum
import errno
import os
import sys
import threading
import weakref
from array import array
from ctypes import byref, c_uint64, c_void_p, create_string_buffer, sizeof, string_at
from types import TracebackType
from typing import (Any, Callable, Dict, Generic, Iterable, Iterator, List, NamedTuple, Optional,
                    Type, TypeVar)

from . import _native
from ._native import (Busy, Disconnected, Forked, InvalidArgument, IpcbusError, LimitReached,
                      LostMessages, MessageTooLarge, NameTooLong, NobodyServes, NoDaemon, NoSpace,
                      NotAllowed, NotFound, OutOfMemory, Overwritten, PeerGone, ProtocolViolated,
                      QuotaReached, Timeout, TooManyFiles, VersionMismatch, WouldBlock,
                      WouldDeadlock)

__all__ = [
    "BorrowedMessage", "Bus", "Busy", "Disconnected", "Forked", "InvalidArgument", "IpcbusError",
    "LimitReached", "LostMessages", "Message", "MessageTooLarge", "NameTooLong", "NobodyServes",
    "NoDaemon", "NoSpace", "NotAllowed", "NotFound", "OutOfMemory", "Overwritten", "PeerGone",
    "ProtocolViolated", "Publisher", "QuotaReached", "Reply", "Request", "Requester", "Responder",
    "Set", "State", "Subscriber", "Timeout", "TooManyFiles",
    "VersionMismatch", "WouldBlock", "WouldDeadlock", "library_version",
]

_library = _native.library
_publish, _borrow, _release = (_library.ipcbus_publish, _library.ipcbus_borrow,
                               _library.ipcbus_release)
_MODES = {"reliable": 0, "lossy": 1, "latest": 2}
_STILL_USED = ("something still refers to the memory that was lent (a slice, or an array made of "
               "the memoryview): delete or copy it before the `with` block ends")

_Self = TypeVar("_Self", bound="_Closing")
_Lent = TypeVar("_Lent")


def library_version() -> str:
    """The version of the C library that runs, "0.1.0"."""
    return _library.ipcbus_version().decode()


class State(enum.Enum):
    """What `Bus.state` tells."""

    CONNECTED = 0
    ORPHANED = 1
    """The daemon is away: messages go on between those that are attached to each other."""
    CLOSED = 2
    """The connection is lost, and `reconnect` was False."""


class Message(NamedTuple):
    """A received message, copied."""

    topic: str
    data: bytes
    sequence: int
    """Number of the message in its publication."""
    publication: int
    """Which publication, in this bus."""
    lost: int
    """Of a "latest" subscriber: how many messages of the publication it passed over just before."""


class BorrowedMessage(NamedTuple):
    """A message where it lies in the ring, for as long as the `with` block of the borrow runs. Its
    publisher can change the bytes at any time: who must not trust it validates a copy."""

    topic: str
    data: memoryview
    """Read-only, bytes."""
    sequence: int
    publication: int
    lost: int


class Request(NamedTuple):
    """A request that was received, to be answered with Responder.respond."""

    topic: str
    data: bytes
    requester: int
    """Who asks: a number of this responder's, never used for another."""
    sequence: int
    """Which request of that requester's."""
    uid: int
    """Of the requester's process, as the kernel told it."""


class Reply(NamedTuple):
    """What was answered."""

    data: bytes
    status: int
    """0, or what the responder says that went wrong: its own numbers."""
    request: int
    """Which request it answers, as Requester.ask told."""
    responder: int
    """Who answered: a number that is its own as long as both are connected."""
    uid: int
    """Of the responder's process, as the kernel told it."""
    more: bool
    """The same responder sends another reply to the same request."""


class _Closing:
    """What is closed at the end of a `with` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        try:
            self.close()
        except BufferError:
            if kind is None:  # else what was raised keeps the arrays alive, and matters more
                raise


class _Connection:
    """Owns the ipcbus_bus; goes after all that was made from it, which refers to it."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def close(self) -> None:
        handle, self.handle = self.handle, 0
        _library.ipcbus_close(handle)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # The end of the process cleans up: threads that wait to the last must keep their handles.
        if not is_finalizing():
            self.close()


def _end(close: Callable[[int], None], handle: int, connection: _Connection) -> None:
    """A finalizer keeps `connection` until it has run: also when all is garbage at once."""
    close(handle)


class _Handle(_Closing):
    """A handle of the library, and the thread that uses it."""

    _noun = "handle"

    def __init__(self, bus: "Bus", handle: int, close: Callable[[int], None]) -> None:
        self._bus = bus
        self._handle: Optional[int] = handle
        self._used = threading.Lock()
        self._pid = os.getpid()
        # What is lent, from before the library is asked until it has it back. No lease, or one that
        # has ended, and yet lent: an exception came between, or arrays outlived their block.
        self._lent = False
        self._lease: "Optional[weakref.ref[_native.Lease]]" = None
        self._finalizer = weakref.finalize(self, _end, close, handle, bus._connection)
        self._finalizer.atexit = False  # as _Connection
        bus._handles.add(self)

    def _begin_plainly(self) -> int:
        if not self._used.acquire(False):
            if self._pid != os.getpid():
                raise Forked(errno.ECHILD, "made before a fork: connect anew in the child")
            raise Busy(errno.EBUSY, f"another thread, or an interrupted call of this one, uses "
                                    f"this {self._noun}")
        if self._handle is None:
            self._used.release()
            raise ValueError(f"the {self._noun} is closed")
        return self._handle

    def _begin(self) -> int:
        """This thread uses the handle until _done()."""
        if self._used.acquire(False):
            if self._handle is not None and not self._lent:
                return self._handle  # the short way
            self._used.release()
        handle = self._begin_plainly()
        try:
            if self._lent and not self._settle(handle):
                raise Busy(errno.EBUSY, "a claim or a borrowed message is open: leave its `with` "
                                        "block, and delete what was made of its memory")
        except BaseException:
            self._used.release()
            raise
        return handle

    def _done(self) -> None:
        self._used.release()

    def _settle(self, handle: int) -> bool:
        """Gives back what is lent. False: something still refers to it."""
        if not _native.ended(self._lease):
            return False
        self._give_back(handle)
        self._lent = False
        self._lease = None
        return True

    def _give_back(self, handle: int) -> int:
        raise NotImplementedError

    def _lend(self, address: Optional[int], size: int, lease: _native.Lease) -> memoryview:
        self._lease = weakref.ref(lease)
        return _native.view_of(address, size, lease)

    def _check_may_close(self) -> None:
        if self._handle is not None:
            handle = self._begin_plainly()
            try:
                if self._lent and not self._settle(handle):
                    raise BufferError(_STILL_USED)
            finally:
                self._used.release()

    def close(self) -> None:
        """Ends it, at once. A second time: nothing. BufferError: something still refers to memory
        that it lent. Busy: another thread uses it."""
        if self._handle is None:
            return
        handle = self._begin_plainly()
        try:
            if self._lent and not self._settle(handle):
                raise BufferError(_STILL_USED)
            self._handle = None
            self._finalizer()
        finally:
            self._used.release()


class _Lending(Generic[_Lent]):
    """The `with` block in which something is lent."""

    def __init__(self, begin: Callable[[], "tuple[_Lent, List[memoryview]]"],
                 end: Callable[[Optional[Type[BaseException]]], None]) -> None:
        self._begin = begin
        self._end = end
        self._views: List[memoryview] = []

    def __enter__(self) -> _Lent:
        lent, self._views = self._begin()
        return lent

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        for view in self._views:
            try:
                view.release()
            except BufferError:
                pass  # the lease lives on, which says so for all of them
        self._views = []
        self._end(kind)


class Publisher(_Handle):
    """The right to write a topic, or all topics under a filter. Made by `Bus.advertise`."""

    _noun = "publisher"

    def __init__(self, bus: "Bus", handle: int, topic: str, max_block: Optional[float]) -> None:
        super().__init__(bus, handle, _library.ipcbus_unadvertise)
        self._max_block = max_block
        self.topic = topic
        """The topic, or the filter."""

    def __repr__(self) -> str:
        return f"<ipcbus.Publisher {self.topic!r}{' closed' if self._handle is None else ''}>"

    def publish(self, data: Any, topic: Optional[str] = None) -> None:
        """Publishes one message: `data` is bytes, or anything else with the buffer protocol that is
        one piece of memory (bytearray, memoryview, array, a numpy array in C order). It is copied
        once, into the ring. `topic` names the topic under a filter, which it must match.

        Waits for slow reliable readers, for `max_block` seconds at most. Raises, with nothing
        published: WouldBlock, Timeout, MessageTooLarge, WouldDeadlock, InvalidArgument, Busy,
        Disconnected, Forked; TypeError or BufferError for what has no such buffer."""
        name = None if topic is None else _native.encoded(topic)
        handle = self._begin()
        try:
            if type(data) is bytes:
                if name is not None or self._max_block:
                    self._publish(handle, name, data, len(data))
                elif (result := _publish(handle, data, len(data))) != 0:
                    self._block(handle, lambda: _publish(handle, data, len(data)), result)
            else:
                with _native.Pinned(data) as pinned:
                    self._publish(handle, name, pinned.address, pinned.size)
        finally:
            self._done()

    def _publish(self, handle: int, name: Optional[bytes], data: Any, size: int) -> None:
        if name is None:
            self._block(handle, lambda: _publish(handle, data, size))
        else:
            self._block(handle, lambda: _library.ipcbus_publish_to(handle, name, data, size))

    def publish_many(self, messages: Iterable[Any]) -> None:
        """Publishes all of them, in order, which is cheaper than one by one. When one cannot be,
        those before it have been: the exception's `published` tells how many. Otherwise as
        publish(); not for a publication under a filter."""
        addresses = array("Q")
        pins: List[_native.Pinned] = []
        handle = self._begin()
        try:
            for message in messages:
                pinned = _native.Pinned(message)
                pins.append(pinned)
                addresses.extend((pinned.address or 0, pinned.size))
            self._publish_all(handle, addresses.buffer_info()[0], len(pins))
        finally:
            self._done()
            for pinned in pins:
                pinned.release()

    def _publish_all(self, handle: int, address: int, count: int) -> None:
        done = 0
        while done < count:
            try:
                done += self._block(handle, lambda: _library.ipcbus_publish_many(
                    handle, address + done * _native.BUFFER_BYTES, count - done))
            except IpcbusError as error:
                error.published = done
                raise

    def _block(self, handle: int, attempt: Callable[[], int], result: Optional[int] = None) -> int:
        """A call that waits for max_block by itself; after a signal for what is left of it.
        `result`: what it has returned, where it was made before."""
        patience = _native.Patience(self._max_block) if self._max_block else None
        if result is None:
            result = attempt()
        if result == -errno.EINTR:
            try:
                while result == -errno.EINTR:
                    if patience is not None:
                        _library.ipcbus_set_max_block(handle, patience.left_ns())
                    result = attempt()
            finally:
                _library.ipcbus_set_max_block(handle, _native.nanoseconds(self._max_block))
        if result < 0:
            raise _native.error(result)
        return result

    def claim(self, size: int, topic: Optional[str] = None) -> "_Lending[memoryview]":
        """Room for a message of `size` bytes in the ring itself:

            with publisher.claim(len(picture)) as view:
                view[:] = picture                    # or numpy.frombuffer(view, "f4")[:] = ...

        The view is writable and aligned to 16 bytes; what it holds at first is undefined. The
        message is published at the end of the block; if the block raises, nothing is. One claim at
        a time. BufferError at the end, and nothing is published: an array or a slice of the view is
        still alive (see the head of this module). Otherwise raises as publish()."""
        name = None if topic is None else _native.encoded(topic)
        if size < 0:
            raise ValueError("size must not be negative")
        return _Lending(lambda: self._claim(size, name), lambda kind: self._commit(size, kind))

    def _claim(self, size: int, name: Optional[bytes]) -> "tuple[memoryview, List[memoryview]]":
        address = c_void_p()
        handle = self._begin()
        try:
            self._lent = True
            try:
                if name is None:
                    self._block(handle,
                                lambda: _library.ipcbus_claim(handle, size, byref(address)))
                else:
                    self._block(handle, lambda: _library.ipcbus_claim_to(handle, name, size,
                                                                         byref(address)))
            except IpcbusError:
                self._lent = False
                raise
            view = self._lend(address.value, size, _native.Lease(self))
            return view, [view]
        finally:
            self._done()

    def _commit(self, size: int, kind: Optional[Type[BaseException]]) -> None:
        handle = self._begin_plainly()
        try:
            if not _native.ended(self._lease):
                if kind is None:
                    raise BufferError(_STILL_USED)
                return
            self._lease = None
            self._lent = False
            if kind is not None:
                _library.ipcbus_abort(handle)
            else:
                _native.check(_library.ipcbus_commit(handle, size))
        finally:
            self._done()

    def _give_back(self, handle: int) -> int:
        return _library.ipcbus_abort(handle)

    @property
    def max_block(self) -> Optional[float]:
        """How many seconds a publish may wait for slow reliable readers. None: without a limit, in
        which no single reader can hold it for longer than the bus's stall_timeout; 0: not at
        all."""
        return self._max_block

    @max_block.setter
    def max_block(self, seconds: Optional[float]) -> None:
        max_block_ns = _native.nanoseconds(seconds, "max_block")
        handle = self._begin_plainly()
        try:
            _native.check(_library.ipcbus_set_max_block(handle, max_block_ns))
            self._max_block = seconds
        finally:
            self._done()

    def wait_subscribers(self, count: int = 1, timeout: Optional[float] = None) -> None:
        """Waits until at least `count` readers are attached. Raises Timeout (WouldBlock),
        Disconnected, Busy, Forked."""
        handle = self._begin()
        try:
            _native.check(_native.Patience(timeout).run(
                lambda ns: _library.ipcbus_wait_subscribers(handle, count, ns)))
        finally:
            self._done()

    def _number(self, function: Callable[[int], int]) -> int:
        handle = self._begin_plainly()
        try:
            return function(handle)
        finally:
            self._done()

    @property
    def subscriber_count(self) -> int:
        """Readers attached at this moment."""
        return self._number(_library.ipcbus_subscriber_count)

    @property
    def message_bytes_max(self) -> int:
        """The largest message of this publication, bytes."""
        return self._number(_library.ipcbus_message_bytes_max)

    @property
    def ring_bytes(self) -> int:
        """Bytes of its ring."""
        return self._number(_library.ipcbus_ring_bytes)


class Subscriber(_Handle):
    """A filter, and what has been published under it. Made by `Bus.subscribe`.

    `for message in subscriber` receives for ever; when it raises LostMessages, another `for` goes
    on."""

    _noun = "subscriber"

    def __init__(self, bus: "Bus", handle: int, topic_filter: str,
                 on_lost: Optional[Callable[[LostMessages], object]]) -> None:
        super().__init__(bus, handle, _library.ipcbus_unsubscribe)
        self._on_lost = on_lost
        self._raw = create_string_buffer(_native.MESSAGE.size)
        self._set: "Optional[weakref.ref[Set]]" = None
        self.filter = topic_filter
        """What it has subscribed to."""

    def __repr__(self) -> str:
        return f"<ipcbus.Subscriber {self.filter!r}{' closed' if self._handle is None else ''}>"

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        return self.receive()

    def receive(self, timeout: Optional[float] = None) -> Message:
        """Receives the next message, as a copy. Delivery is in order, once, per publication.

        Raises Timeout (WouldBlock), LostMessages, Disconnected, Busy, Forked; ProtocolViolated (a
        publisher is heard no more), OutOfMemory or TooManyFiles (one could not be attached to):
        the others are heard by the next call."""
        handle = self._begin()
        try:
            patience = None  # not before there is something to wait for
            while True:
                self._lent = True
                result = _borrow(handle, 0, self._raw)
                if result != 0:
                    patience = patience or _native.Patience(timeout)
                    self._await(patience, lambda ns: _borrow(handle, ns, self._raw),
                                self._raw, result)
                (data, size, topic, topic_size, sequence, publication,
                 lost) = _native.MESSAGE.unpack_from(self._raw)
                message = Message(_native.decoded(topic, topic_size), string_at(data, size),
                                  sequence, publication, lost)
                result = _release(handle)
                self._lent = False
                if result == 0:
                    return message
                if result != -errno.ESTALE:
                    raise _native.error(result)
                # Overwritten while it was copied: the next borrow tells what is lost.
        finally:
            self._done()

    def borrow(self, timeout: Optional[float] = None) -> "_Lending[BorrowedMessage]":
        """The next message where it lies in the ring:

            with subscriber.borrow(timeout=1) as message:
                total = numpy.frombuffer(message.data, "f4").sum()

        Waits when the block begins. `message.data` is a read-only memoryview, released at its end.
        A reliable subscriber holds its publisher back meanwhile (up to stall_timeout); a lossy
        one's message may be overwritten, which the end of the block tells: Overwritten. BufferError
        there: an array or a slice of the view is still alive (see the head of this module).
        Otherwise raises as receive()."""
        return _Lending(lambda: self._borrow(timeout), self._return)

    def _borrow(self, timeout: Optional[float]) -> "tuple[BorrowedMessage, List[memoryview]]":
        handle = self._begin()
        try:
            self._await(_native.Patience(timeout),
                        lambda ns: _borrow(handle, ns, self._raw), self._raw)
            message = self._borrowed(_native.MESSAGE.unpack_from(self._raw), _native.Lease(self))
            return message, [message.data]
        finally:
            self._done()

    def borrow_many(self, count: int, timeout: Optional[float] = None,
                    ) -> "_Lending[List[BorrowedMessage]]":
        """Up to `count` messages of one publication at once, in order, as a list; waits for the
        first alone. All of them are given back at the end of the block. Otherwise as borrow()."""
        if count < 1:
            raise ValueError("count must be positive")
        return _Lending(lambda: self._borrow_many(count, timeout), self._return)

    def _borrow_many(self, count: int, timeout: Optional[float],
                     ) -> "tuple[List[BorrowedMessage], List[memoryview]]":
        handle = self._begin()
        try:
            raw = create_string_buffer(_native.MESSAGE.size * count)
            taken = self._await(_native.Patience(timeout), lambda ns:
                                _library.ipcbus_borrow_many(handle, ns, raw, count), raw)
            lease = _native.Lease(self)
            messages = [self._borrowed(_native.MESSAGE.unpack_from(raw, i * _native.MESSAGE.size),
                                       lease) for i in range(taken)]
            return messages, [message.data for message in messages]
        finally:
            self._done()

    def _borrowed(self, fields: "tuple[int, ...]", lease: _native.Lease) -> BorrowedMessage:
        data, size, topic, topic_size, sequence, publication, lost = fields
        name = _native.decoded(topic, topic_size)
        return BorrowedMessage(name, self._lend(data, size, lease).toreadonly(), sequence,
                               publication, lost)

    def _await(self, patience: _native.Patience, attempt: Callable[[int], int],
               raw: Any, result: int = -errno.EAGAIN) -> int:
        """Waits until something is lent. Losses are raised, or told to on_lost. `result`: what a
        first attempt has returned that did not wait."""
        while True:
            if result in (-errno.EAGAIN, -errno.EINTR):
                self._lent = True
                result = patience.run(attempt)
            if result >= 0:
                return result
            self._lent = False
            error = _native.error(result)
            if not isinstance(error, LostMessages):
                raise error
            (_, _, topic, topic_size, error.sequence, error.publication,
             error.lost) = _native.MESSAGE.unpack_from(raw)
            error.topic = _native.decoded(topic, topic_size)
            if self._on_lost is None:
                raise error
            self._on_lost(error)
            result = -errno.EAGAIN

    def _return(self, kind: Optional[Type[BaseException]]) -> None:
        handle = self._begin_plainly()
        try:
            if not _native.ended(self._lease):
                if kind is None:
                    raise BufferError(_STILL_USED)
                return
            self._lease = None
            self._lent = False
            result = _release(handle)
            if kind is not None and not issubclass(kind, Exception):
                return  # KeyboardInterrupt goes on; the next call tells of the loss
            if result == -errno.ESTALE:
                raise Overwritten(errno.ESTALE, _library.ipcbus_last_error().decode())
            _native.check(result)
        finally:
            self._done()

    def _give_back(self, handle: int) -> int:
        return _release(handle)

    @property
    def lost(self) -> int:
        """Messages lost so far, in all publications of this subscription."""
        handle = self._begin_plainly()
        try:
            return _library.ipcbus_lost(handle)
        finally:
            self._done()

    @property
    def publication_count(self) -> int:
        """Publications attached right now."""
        handle = self._begin_plainly()
        try:
            return _library.ipcbus_publication_count(handle)
        finally:
            self._done()

    def fileno(self) -> int:
        """A descriptor for event loops, the same each time, which belongs to the subscriber:
        readable while there is something to receive or to report. Level-triggered: it stops being
        readable when receive(timeout=0), or borrow, has raised WouldBlock, and may be readable now
        and then when there is nothing.

            def ready():
                with contextlib.suppress(ipcbus.WouldBlock):
                    while True:
                        handle(subscriber.receive(timeout=0))
            asyncio.get_running_loop().add_reader(subscriber, ready)

        Take it out of the loop before the subscriber is closed. Raises Busy (it is in a Set: that
        one has a fileno), TooManyFiles, OutOfMemory, Forked."""
        handle = self._begin_plainly()
        try:
            return _native.check(_library.ipcbus_fd(handle))
        finally:
            self._done()

    def notify(self, signal: int) -> None:
        """Queues `signal` (of the module signal; best SIGRTMIN + n) to this process each time that
        the subscriber goes from empty to not empty: after receive(timeout=0) has raised WouldBlock
        something comes. It may come now and then when there is nothing. 0 ends it. Raises
        InvalidArgument, Busy (it is in a Set), TooManyFiles, OutOfMemory, Forked."""
        handle = self._begin_plainly()
        try:
            _native.check(_library.ipcbus_notify(handle, signal, None))
        finally:
            self._done()

    def close(self) -> None:
        waiting = None if self._set is None else self._set()
        if waiting is not None and self._handle is not None:
            waiting.remove(self)
        super().close()

    close.__doc__ = _Handle.close.__doc__


class Set(_Handle):
    """Several subscribers of one Bus that one thread waits for at once. Made by `Bus.make_set`.
    Closing it leaves its subscribers as they are."""

    _noun = "set"

    def __init__(self, bus: "Bus", handle: int) -> None:
        super().__init__(bus, handle, _library.ipcbus_set_free)
        self._members: Dict[int, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, subscriber: object) -> bool:
        return subscriber in self._members.values()

    def add(self, subscriber: Subscriber) -> None:
        """Adds one. Raises Busy (it is in a set already, or has a fileno() of its own),
        InvalidArgument (of another Bus)."""
        self._change(_library.ipcbus_set_add, subscriber, True)

    def remove(self, subscriber: Subscriber) -> None:
        """Takes one out. Raises NotFound."""
        self._change(_library.ipcbus_set_remove, subscriber, False)

    def _change(self, function: Callable[[int, int], int], subscriber: Subscriber,
                inside: bool) -> None:
        handle = self._begin_plainly()
        try:
            member = subscriber._begin_plainly()
            try:
                _native.check(function(handle, member))
                if inside:
                    self._members[member] = subscriber
                    subscriber._set = weakref.ref(self)
                else:
                    del self._members[member]
                    subscriber._set = None
            finally:
                subscriber._done()
        finally:
            self._done()

    def wait(self, timeout: Optional[float] = None) -> Subscriber:
        """Waits until one of them has something to receive, or a loss to tell of, and returns it;
        in turn where several have. Raises Timeout (WouldBlock), NotFound (the set is empty),
        Disconnected, Forked, Busy (one has lent a message)."""
        found = c_void_p()
        begun: List[_Handle] = []
        handle = self._begin_plainly()
        try:
            for member in self._members.values():
                member._begin()
                begun.append(member)
            _native.check(_native.Patience(timeout).run(
                lambda ns: _library.ipcbus_set_wait(handle, ns, byref(found))))
        finally:
            for used in begun:
                used._done()
            self._done()
        assert found.value is not None
        return self._members[found.value]

    def fileno(self) -> int:
        """As Subscriber.fileno: readable until wait(timeout=0) has raised WouldBlock."""
        handle = self._begin_plainly()
        try:
            return _native.check(_library.ipcbus_set_fd(handle))
        finally:
            self._done()

    def close(self) -> None:
        super().close()
        for member in self._members.values():
            member._set = None
        self._members = {}

    close.__doc__ = _Handle.close.__doc__


class _Exchanging(_Handle):
    """A handle that gets requests or replies into a buffer of its own, which grows."""

    def __init__(self, bus: "Bus", handle: int, close: Callable[[int], None], raw_bytes: int,
                 ) -> None:
        super().__init__(bus, handle, close)
        self._raw = create_string_buffer(raw_bytes)
        self._buffer = create_string_buffer(4096)

    def _number(self, function: Callable[[int], int]) -> int:
        handle = self._begin()
        try:
            return function(handle)
        finally:
            self._done()

    def _take(self, patience: _native.Patience, function: Callable[..., int], handle: int) -> int:
        while True:
            result = patience.run(lambda ns: function(handle, self._buffer, len(self._buffer), ns,
                                                      self._raw))
            if result != -errno.EMSGSIZE:
                return result
            # Both structs begin with the buffer and what it takes.
            self._buffer = create_string_buffer(_native.REPLY.unpack_from(self._raw)[1])


_NO_REPLY = (0,) * 9


class Requester(_Exchanging):
    """Asks whoever serves one topic. Made by `Bus.make_requester`."""

    _noun = "requester"

    def __init__(self, bus: "Bus", handle: int, topic: str) -> None:
        super().__init__(bus, handle, _library.ipcbus_requester_free, _native.REPLY.size)
        # Requests of ask(). True: it has one reply; else they have come when all have, NotFound.
        self._open: Dict[int, bool] = {}
        self.topic = topic
        """What it asks for."""

    def __repr__(self) -> str:
        return f"<ipcbus.Requester {self.topic!r}{' closed' if self._handle is None else ''}>"

    def call(self, data: Any, timeout: Optional[float] = None) -> Reply:
        """Asks one of those who serve the topic and waits for its reply. `data`: as for
        Publisher.publish. Raises NobodyServes and PeerGone, both at once; Timeout (WouldBlock), and
        then a later reply is thrown away; MessageTooLarge; LimitReached (who was asked gets no ring
        to answer in); Busy, also while replies to ask() are awaited; LostMessages, Disconnected,
        Forked. A thread that serves the topic itself must not wait for itself."""
        handle = self._begin()
        try:
            if self._open:
                raise Busy(errno.EBUSY, "replies are awaited: take them, if all were asked until "
                                        "NotFound, or abandon them")
            patience = _native.Patience(timeout)
            request = self._ask(handle, data, 0, patience)
            try:
                return self._next(handle, patience)
            finally:
                _library.ipcbus_abandon(handle, request)
        finally:
            self._done()

    def ask(self, data: Any, *, all: bool = False, timeout: Optional[float] = None) -> int:
        """Asks one of those who serve the topic, or `all` of them, and returns the number of the
        request. `timeout` is for room among requests that were not read yet. Raises, with nothing
        sent: NobodyServes, Timeout (WouldBlock), MessageTooLarge, WouldDeadlock, Busy,
        Disconnected, Forked."""
        handle = self._begin()
        try:
            request = self._ask(handle, data, _native.ASK_ALL if all else 0,
                                _native.Patience(timeout))
            self._open[request] = not all
            return request
        finally:
            self._done()

    def _ask(self, handle: int, data: Any, flags: int, patience: _native.Patience) -> int:
        number = c_uint64()
        with _native.Pinned(data) as pinned:
            _native.check(patience.run(lambda ns: _library.ipcbus_ask(
                handle, pinned.address, pinned.size, flags, ns, byref(number))))
        return number.value

    def next_reply(self, timeout: Optional[float] = None) -> Reply:
        """The next reply to any request. Raises NotFound when all have been answered; PeerGone or
        LimitReached (no ring to answer in), whose `request` will not be; Timeout (WouldBlock),
        LostMessages, Busy, Disconnected, Forked."""
        handle = self._begin()
        try:
            return self._next(handle, _native.Patience(timeout))
        finally:
            self._done()

    def _next(self, handle: int, patience: _native.Patience) -> Reply:
        _native.REPLY.pack_into(self._raw, 0, *_NO_REPLY)  # not always filled upon an error
        result = self._take(patience, _library.ipcbus_next_reply, handle)
        (_, size, request, responder, status, flags, uid, _,
         lost) = _native.REPLY.unpack_from(self._raw)
        if result != 0:
            error = _native.error(result)
            if isinstance(error, (PeerGone, LimitReached)):
                error.request = request
                self._settle_request(request)
            elif isinstance(error, NotFound):
                self._open.clear()
            elif isinstance(error, LostMessages):
                error.lost, error.topic = lost, self.topic
            raise error
        more = flags & _native.REPLY_MORE != 0
        if not more:
            self._settle_request(request)
        return Reply(self._buffer[:size], status, request, responder, uid, more)

    def _settle_request(self, request: int) -> None:
        if self._open.get(request):
            del self._open[request]

    def abandon(self, request: int) -> None:
        """Replies to that request are awaited no more. Raises NotFound if none are."""
        handle = self._begin()
        try:
            self._open.pop(request, None)
            _native.check(_library.ipcbus_abandon(handle, request))
        finally:
            self._done()

    def wait_responders(self, count: int = 1, timeout: Optional[float] = None) -> None:
        """Waits until at least `count` serve the topic. Raises Timeout (WouldBlock)."""
        handle = self._begin()
        try:
            _native.check(_native.Patience(timeout).run(
                lambda ns: _library.ipcbus_wait_responders(handle, count, ns)))
        finally:
            self._done()

    @property
    def responder_count(self) -> int:
        """Who serves the topic at this moment."""
        return self._number(_library.ipcbus_responder_count)

    @property
    def request_bytes_max(self) -> int:
        """The largest request, bytes."""
        return self._number(_library.ipcbus_request_bytes_max)


class Responder(_Exchanging):
    """Serves the topics under a filter. Made by `Bus.serve`. Its end fails what is not answered.

    `for request in responder` receives for ever."""

    _noun = "responder"

    def __init__(self, bus: "Bus", handle: int, topic_filter: str) -> None:
        super().__init__(bus, handle, _library.ipcbus_responder_free, _native.REQUEST.size)
        self.filter = topic_filter
        """What it serves."""

    def __repr__(self) -> str:
        return f"<ipcbus.Responder {self.filter!r}{' closed' if self._handle is None else ''}>"

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        return self.next_request()

    def next_request(self, timeout: Optional[float] = None) -> Request:
        """The next request; each is to be answered with respond(). Raises Timeout (WouldBlock),
        ProtocolViolated (a requester is heard no more), OutOfMemory, TooManyFiles, Busy,
        Disconnected, Forked."""
        handle = self._begin()
        try:
            result = self._take(_native.Patience(timeout), _library.ipcbus_next_request, handle)
            (_, size, topic, topic_size, requester, sequence, uid,
             _) = _native.REQUEST.unpack_from(self._raw)
            if result != 0:
                raise _native.error(result)
            return Request(_native.decoded(topic, topic_size), self._buffer[:size], requester,
                           sequence, uid)
        finally:
            self._done()

    def respond(self, request: Request, data: Any, *, status: int = 0, more: bool = False) -> None:
        """Answers `request`; with `more` another answer to it follows. Raises PeerGone (who asked
        has gone), MessageTooLarge (more than it takes: answer with less), Timeout (it does not take
        its replies), LimitReached, InvalidArgument, Busy, Disconnected, Forked."""
        if not 0 <= status < 1 << 32:
            raise ValueError("status must fit 32 bits, and not be negative")
        raw = _native.REQUEST.pack(0, 0, 0, 0, request.requester, request.sequence, 0, 0)
        handle = self._begin()
        try:
            with _native.Pinned(data) as pinned:
                result = -errno.EINTR
                while result == -errno.EINTR:  # Python has run its handlers
                    result = _library.ipcbus_respond(handle, raw, pinned.address, pinned.size,
                                                     status, _native.REPLY_MORE if more else 0)
                _native.check(result)
        finally:
            self._done()

    @property
    def requester_count(self) -> int:
        """Who may ask at this moment."""
        return self._number(_library.ipcbus_requester_count)


class Bus(_Closing):
    """This process's connection to one bus. Threads may share it."""

    def __init__(self, address: Optional[str] = None, *, name: Optional[str] = None,
                 timeout: Optional[float] = 0, reconnect: bool = True,
                 ca_file: Optional[str] = None, certificate_file: Optional[str] = None,
                 key_file: Optional[str] = None, server_name: Optional[str] = None) -> None:
        """`address`: "unix:/path", "tls:host:port" or "tcp:host:port"; None: $IPCBUS_ADDRESS, or
        where the bus usually is. `name`: what the client calls itself in the daemon's log, at most
        64 bytes; None: the program's name.
        `timeout`: how many seconds to try, also when no daemon is there yet; 0: once; None: for
        ever. `reconnect`: whether a lost connection is made again; else calls raise Disconnected.
        For "tls:", `ca_file`, `certificate_file`, `key_file`: PEM files; `server_name`: what the
        server's certificate must be for; None: as the environment says, see ipcbus(3).

        Raises NoDaemon, NotAllowed, Timeout, VersionMismatch, LimitReached, InvalidArgument."""
        self._lock = threading.RLock()
        self._users = 0
        self._handles: "weakref.WeakSet[_Handle]" = weakref.WeakSet()
        options = _native.ConnectOptions(
            struct_size=sizeof(_native.ConnectOptions),
            **{field: None if value is None else _native.encoded(value)
               for field, value in (("address", address), ("name", name), ("ca_file", ca_file),
                                    ("certificate_file", certificate_file),
                                    ("key_file", key_file), ("server_name", server_name))},
            flags=0 if reconnect else _native.NO_RECONNECT)
        handle = c_void_p()
        patience = _native.Patience(timeout)
        result = -errno.EINTR
        while result == -errno.EINTR:
            options.timeout_ns = patience.left_ns()
            result = _library.ipcbus_connect(byref(options), byref(handle))
        _native.check(result)
        assert handle.value is not None
        self._connection: Optional[_Connection] = _Connection(handle.value)

    def __repr__(self) -> str:
        return f"<ipcbus.Bus{' closed' if self._connection is None else ''}>"

    def _begin(self) -> int:
        with self._lock:
            if self._connection is None:
                raise ValueError("the bus is closed")
            self._users += 1
            return self._connection.handle

    def _done(self) -> None:
        with self._lock:
            self._users -= 1

    def advertise(self, topic: str, *, ring_bytes: int = 0, message_bytes_max: int = 0,
                  max_block: Optional[float] = None) -> Publisher:
        """Makes a publication of `topic`; with wildcards (`plant/#`) one of any topic under it,
        each message naming its own. When it returns, everyone subscribed is attached.

        `ring_bytes`: rounded up to a power of two; 0: as configured. `message_bytes_max`: the
        largest message there will be; 0: a quarter of the ring. `max_block`: see
        Publisher.max_block. Raises InvalidArgument, LimitReached, NotAllowed, Disconnected."""
        max_block_ns = _native.nanoseconds(max_block, "max_block")
        if ring_bytes < 0 or message_bytes_max < 0:
            raise ValueError("sizes must not be negative")
        options = _native.PublisherOptions(
            struct_size=sizeof(_native.PublisherOptions), ring_bytes=ring_bytes,
            message_bytes_max=message_bytes_max, max_block_ns=max_block_ns)
        handle = c_void_p()
        name = _native.encoded(topic)
        bus = self._begin()
        try:
            _native.check(_library.ipcbus_advertise(bus, name, byref(options), byref(handle)))
            assert handle.value is not None
            publisher = Publisher(self, handle.value, topic, max_block)
            if max_block_ns == 0:  # which the options take for "no limit"
                publisher.max_block = max_block
            return publisher
        finally:
            self._done()

    def subscribe(self, filter: str, *, mode: str = "reliable", spin: Optional[float] = None,
                  history: Optional[int] = 0,
                  on_lost: Optional[Callable[[LostMessages], object]] = None) -> Subscriber:
        """Subscribes to every topic that `filter` matches (`+`: one level, `#`: all the rest), now
        and later. When it returns, no message published afterwards is missed.

        `mode`: "reliable" (publishers wait for it, up to stall_timeout), "lossy" (they never do;
        overtaken, it goes on at the oldest), "latest" (lossy, and each receive goes to the newest).
        `spin`: how many seconds a wait may spin before it sleeps; None: it adapts; 0: never.
        `history`: how many messages of each publication to begin with, before what is published
        from now on; None: as many as there are. Nothing between them is lost or comes twice.
        `on_lost`: called with a LostMessages instead of raising it; it must not use the subscriber.
        Raises InvalidArgument, LimitReached, NotAllowed, TooManyFiles, Disconnected; with a
        history, VersionMismatch (the daemon is older than that) and Timeout."""
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
        spin_ns = 0 if spin is None else -1 if spin == 0 else _native.nanoseconds(spin, "spin")
        if spin is not None and spin != 0:
            spin_ns = 2**63 - 1 if spin_ns < 0 else max(spin_ns, 1)
        if history is not None and not 0 <= history < 2**64:
            raise ValueError("history must be None or a non-negative number of messages")
        options = _native.SubscriberOptions(
            struct_size=sizeof(_native.SubscriberOptions), mode=_MODES[mode], spin_ns=spin_ns,
            history=2**64 - 1 if history is None else history)
        handle = c_void_p()
        name = _native.encoded(filter)
        bus = self._begin()
        try:
            _native.check(_library.ipcbus_subscribe(bus, name, byref(options), byref(handle)))
            assert handle.value is not None
            return Subscriber(self, handle.value, filter, on_lost)
        finally:
            self._done()

    def make_requester(self, topic: str, *, request_bytes_max: int = 0, reply_bytes_max: int = 0,
                       ) -> Requester:
        """Makes a requester for `topic`. When it returns, everyone who serves it can be asked.
        `request_bytes_max`, `reply_bytes_max`: the largest of each; 0: 16 KiB. Raises
        InvalidArgument, MessageTooLarge, LimitReached, NotAllowed, Disconnected."""
        if request_bytes_max < 0 or reply_bytes_max < 0:
            raise ValueError("sizes must not be negative")
        options = _native.RequesterOptions(
            struct_size=sizeof(_native.RequesterOptions), request_bytes_max=request_bytes_max,
            reply_bytes_max=reply_bytes_max)
        handle = c_void_p()
        name = _native.encoded(topic)
        bus = self._begin()
        try:
            _native.check(_library.ipcbus_requester_create(bus, name, byref(options),
                                                           byref(handle)))
            assert handle.value is not None
            return Requester(self, handle.value, topic)
        finally:
            self._done()

    def serve(self, filter: str, *, max_block: float = 1) -> Responder:
        """Serves every topic that `filter` matches, now and later. When it returns, requests come;
        several that serve a topic share its requests. `max_block`: how many seconds a reply may
        wait for a requester that does not take its replies. Raises InvalidArgument, LimitReached,
        NotAllowed, Disconnected."""
        options = _native.ResponderOptions(
            struct_size=sizeof(_native.ResponderOptions),
            max_block_ns=_native.nanoseconds(max_block, "max_block") or 1)
        handle = c_void_p()
        name = _native.encoded(filter)
        bus = self._begin()
        try:
            _native.check(_library.ipcbus_serve(bus, name, byref(options), byref(handle)))
            assert handle.value is not None
            return Responder(self, handle.value, filter)
        finally:
            self._done()

    def make_set(self, *subscribers: Subscriber) -> Set:
        """Makes a set of these subscribers, all of this Bus, to wait for any of them. Raises
        LimitReached, and what Set.add does."""
        handle = c_void_p()
        bus = self._begin()
        try:
            _native.check(_library.ipcbus_set_create(bus, byref(handle)))
            assert handle.value is not None
            made = Set(self, handle.value)
        finally:
            self._done()
        for subscriber in subscribers:
            made.add(subscriber)
        return made

    @property
    def state(self) -> State:
        """Whether the daemon is there; when it is not, tries to connect again. Waits for a second
        at most, and only if a daemon has come and does not answer."""
        bus = self._begin()
        try:
            return State(_native.check(_library.ipcbus_state(bus)))
        finally:
            self._done()

    @property
    def reconnects(self) -> int:
        """How often the connection was made again."""
        bus = self._begin()
        try:
            return _library.ipcbus_reconnects(bus)
        finally:
            self._done()

    def close(self) -> None:
        """Closes the connection and everything made from it. A second time: nothing. BufferError:
        something still refers to memory that was lent. Busy: a thread uses it or one of them."""
        with self._lock:
            if self._connection is None:
                return
            if self._users != 0:
                raise Busy(errno.EBUSY, "another thread uses this bus")
            handles = sorted(self._handles, key=lambda handle: not isinstance(handle, Set))
            for handle in handles:
                handle._check_may_close()  # all of them, or none
            for handle in handles:
                handle.close()
            self._connection.close()
            self._connection = None
