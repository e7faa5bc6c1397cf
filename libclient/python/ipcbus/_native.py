# SPDX-License-Identifier: Apache-2.0
"""What the package needs of libipcbus.so.0 and of CPython: the prototypes of ipcbus.h, errors as
exceptions, addresses of buffers, memoryviews of foreign memory, and waits in which Python's signal
handlers run. Nothing here is public but the exceptions, which __init__.py names.
"""

import ctypes
import errno
import functools
import os
import struct
import time
import weakref
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Callable, Dict, Optional, Type

# ----------------------------------------------------------------------------- exceptions


class IpcbusError(OSError):
    """An error of the bus: `errno` is one of ipcbus.h's table, `strerror` the library's own words,
    with the remedy where there is one. Each errno has a subclass."""

    published = 0
    """How many messages `Publisher.publish_many` had published before the error."""


class Timeout(IpcbusError, TimeoutError):
    """ETIMEDOUT: the time was over first. Nothing was received or published."""


class WouldBlock(Timeout, BlockingIOError):
    """EAGAIN: there is no message, or no room in the ring, and the timeout was 0."""


class LostMessages(IpcbusError):
    """ESTALE: the publisher has overtaken this subscriber. No message was received; the next call
    goes on with the oldest that is there."""

    lost = 0
    """Messages lost, exactly."""
    topic = ""
    """The topic of their publication, or its filter."""
    publication = 0
    """Which publication."""
    sequence = 0
    """Number of the next message of that publication."""


class Overwritten(LostMessages):
    """ESTALE: a message was overwritten while it was borrowed. What was read of it must be thrown
    away. `lost` is 0: the next call tells how many messages are lost, this one among them."""


class MessageTooLarge(IpcbusError):
    """EMSGSIZE: larger than `Publisher.message_bytes_max`."""


class Disconnected(IpcbusError, ConnectionError):
    """ESHUTDOWN: the connection is gone and was not to be made again."""


class NoDaemon(IpcbusError, ConnectionRefusedError):
    """ECONNREFUSED: no daemon answers at that address."""


class NotAllowed(IpcbusError, PermissionError):
    """EACCES: the rules of the bus or the permissions of its socket forbid it; a certificate is not
    believed, or is missing."""


class LimitReached(IpcbusError):
    """A limit of the bus (the text names it) or of the system."""

    request = 0
    """The number of the request that cannot be answered for it, if there is one."""


class QuotaReached(LimitReached):
    """EDQUOT: a limit that the bus has for each user or client."""


class NoSpace(LimitReached):
    """ENOSPC: the bus has no memory left, or no room for one more."""


class TooManyFiles(LimitReached):
    """EMFILE: too many descriptors are open."""


class OutOfMemory(LimitReached):
    """ENOMEM: the system has no memory left."""


class WouldDeadlock(IpcbusError):
    """EDEADLK: the publish would wait for a subscriber of this very thread."""


class Busy(IpcbusError):
    """EBUSY: a claim, a borrowed message or another thread is in the way."""


class NobodyServes(IpcbusError):
    """EHOSTUNREACH: nobody serves the topic of the request. Nothing was asked."""


class PeerGone(IpcbusError, BrokenPipeError):
    """EPIPE: who was asked has gone before it answered; or who asked, before the answer."""

    request = 0
    """The number of the request that will not be answered, where there were several."""


class Forked(IpcbusError, ChildProcessError):
    """ECHILD: the object was made before a fork, in the parent. Connect anew in the child."""


class InvalidArgument(IpcbusError, ValueError):
    """EINVAL: an argument is wrong."""


class NameTooLong(InvalidArgument):
    """ENAMETOOLONG: a name or an address is too long."""


class NotFound(IpcbusError, FileNotFoundError):
    """ENOENT: there is no such thing; a set to wait for is empty."""


class ProtocolViolated(IpcbusError):
    """EPROTO: the other side breaks the protocol. A publisher that does is heard no more."""


class VersionMismatch(IpcbusError):
    """EPROTONOSUPPORT: daemon and library are of versions that do not understand each other, or
    the daemon is too old for what was asked of it."""


# The closed table of ipcbus.h. EINTR is not here: Python's handlers run, and the wait goes on.
ERRORS: Dict[int, Type[IpcbusError]] = {
    errno.EAGAIN: WouldBlock,
    errno.ETIMEDOUT: Timeout,
    errno.ESTALE: LostMessages,
    errno.EMSGSIZE: MessageTooLarge,
    errno.ESHUTDOWN: Disconnected,
    errno.ECONNREFUSED: NoDaemon,
    errno.EACCES: NotAllowed,
    errno.EDQUOT: QuotaReached,
    errno.ENOSPC: NoSpace,
    errno.EMFILE: TooManyFiles,
    errno.ENOMEM: OutOfMemory,
    errno.EDEADLK: WouldDeadlock,
    errno.EBUSY: Busy,
    errno.EHOSTUNREACH: NobodyServes,
    errno.EPIPE: PeerGone,
    errno.ECHILD: Forked,
    errno.EINVAL: InvalidArgument,
    errno.ENOENT: NotFound,
    errno.ENAMETOOLONG: NameTooLong,
    errno.EPROTO: ProtocolViolated,
    errno.EPROTONOSUPPORT: VersionMismatch,
}

# ---------------------------------------------------------------------------- the library


def _load() -> ctypes.CDLL:
    name = os.environ.get("IPCBUS_LIBRARY") or "libipcbus.so.0"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ImportError(f"ipcbus needs its C library: {error}") from error


# The structs of ipcbus.h. A message is read with MESSAGE, from plain memory of MESSAGE.size bytes.
MESSAGE = struct.Struct("@PNPN3Q")
BUFFER_BYTES = struct.calcsize("@PN")
REPLY = struct.Struct("@PN2Q4IQ")
REQUEST = struct.Struct("@PNPN2Q2I")


class ConnectOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("address", c_char_p), ("name", c_char_p),
                ("timeout_ns", c_int64), ("flags", c_uint32), ("reserved", c_uint32),
                ("ca_file", c_char_p), ("certificate_file", c_char_p), ("key_file", c_char_p),
                ("server_name", c_char_p)]


class PublisherOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("ring_bytes", c_uint64),
                ("message_bytes_max", c_uint64), ("max_block_ns", c_int64)]


class SubscriberOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("mode", c_uint32), ("reserved", c_uint32),
                ("spin_ns", c_int64), ("history", c_uint64)]


class RequesterOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("request_bytes_max", c_uint64),
                ("reply_bytes_max", c_uint64), ("spin_ns", c_int64)]


class ResponderOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("max_block_ns", c_int64), ("spin_ns", c_int64)]


NO_RECONNECT = 1
ASK_ALL = 1
REPLY_MORE = 1
FOREVER = -1

# Handles and memory are addresses: c_void_p takes an int, bytes, or an array of ctypes.
PROTOTYPES: Dict[str, Any] = {
    "ipcbus_connect": (c_int, c_void_p, c_void_p),
    "ipcbus_close": (None, c_void_p),
    "ipcbus_state": (c_int, c_void_p),
    "ipcbus_reconnects": (c_uint64, c_void_p),
    "ipcbus_advertise": (c_int, c_void_p, c_char_p, c_void_p, c_void_p),
    "ipcbus_unadvertise": (None, c_void_p),
    "ipcbus_set_max_block": (c_int, c_void_p, c_int64),
    "ipcbus_publish": (c_int, c_void_p, c_void_p, c_size_t),
    "ipcbus_publish_to": (c_int, c_void_p, c_char_p, c_void_p, c_size_t),
    "ipcbus_publish_many": (c_int64, c_void_p, c_void_p, c_size_t),
    "ipcbus_claim": (c_int, c_void_p, c_size_t, c_void_p),
    "ipcbus_claim_to": (c_int, c_void_p, c_char_p, c_size_t, c_void_p),
    "ipcbus_commit": (c_int, c_void_p, c_size_t),
    "ipcbus_abort": (c_int, c_void_p),
    "ipcbus_subscriber_count": (c_uint32, c_void_p),
    "ipcbus_wait_subscribers": (c_int, c_void_p, c_uint32, c_int64),
    "ipcbus_message_bytes_max": (c_size_t, c_void_p),
    "ipcbus_ring_bytes": (c_uint64, c_void_p),
    "ipcbus_subscribe": (c_int, c_void_p, c_char_p, c_void_p, c_void_p),
    "ipcbus_unsubscribe": (None, c_void_p),
    "ipcbus_borrow": (c_int, c_void_p, c_int64, c_void_p),
    "ipcbus_borrow_many": (c_int64, c_void_p, c_int64, c_void_p, c_size_t),
    "ipcbus_release": (c_int, c_void_p),
    "ipcbus_fd": (c_int, c_void_p),
    "ipcbus_notify": (c_int, c_void_p, c_int, c_void_p),
    "ipcbus_lost": (c_uint64, c_void_p),
    "ipcbus_publication_count": (c_uint32, c_void_p),
    "ipcbus_set_create": (c_int, c_void_p, c_void_p),
    "ipcbus_set_free": (None, c_void_p),
    "ipcbus_set_add": (c_int, c_void_p, c_void_p),
    "ipcbus_set_fd": (c_int, c_void_p),
    "ipcbus_set_remove": (c_int, c_void_p, c_void_p),
    "ipcbus_set_wait": (c_int, c_void_p, c_int64, c_void_p),
    "ipcbus_requester_create": (c_int, c_void_p, c_char_p, c_void_p, c_void_p),
    "ipcbus_requester_free": (None, c_void_p),
    "ipcbus_call": (c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_int64, c_void_p),
    "ipcbus_ask": (c_int, c_void_p, c_void_p, c_size_t, c_uint32, c_int64, c_void_p),
    "ipcbus_next_reply": (c_int, c_void_p, c_void_p, c_size_t, c_int64, c_void_p),
    "ipcbus_abandon": (c_int, c_void_p, c_uint64),
    "ipcbus_responder_count": (c_uint32, c_void_p),
    "ipcbus_wait_responders": (c_int, c_void_p, c_uint32, c_int64),
    "ipcbus_request_bytes_max": (c_size_t, c_void_p),
    "ipcbus_serve": (c_int, c_void_p, c_char_p, c_void_p, c_void_p),
    "ipcbus_responder_free": (None, c_void_p),
    "ipcbus_next_request": (c_int, c_void_p, c_void_p, c_size_t, c_int64, c_void_p),
    "ipcbus_respond": (c_int, c_void_p, c_void_p, c_void_p, c_size_t, c_uint32, c_uint32),
    "ipcbus_requester_count": (c_uint32, c_void_p),
    "ipcbus_last_error": (c_char_p,),
    "ipcbus_version": (c_char_p,),
}

library = _load()
for _name, (_result, *_arguments) in PROTOTYPES.items():
    try:
        _function = getattr(library, _name)
    except AttributeError as _error:
        raise ImportError(f"libipcbus.so.0 is too old for this package: {_error}") from _error
    _function.restype = _result
    _function.argtypes = _arguments


def error(result: int) -> IpcbusError:
    """The exception for what a function of the library has just returned."""
    text = library.ipcbus_last_error().decode("utf-8", "replace")
    return ERRORS.get(-result, IpcbusError)(-result, text or os.strerror(-result))


def check(result: int) -> int:
    if result < 0:
        raise error(result)
    return result


def encoded(name: str) -> bytes:
    """A topic, a filter or a name as the library wants it. Topics may be any bytes: what is no
    UTF-8 is escaped as Python does it for the names of files."""
    if "\0" in name:
        raise ValueError("embedded null character")
    return name.encode("utf-8", "surrogateescape")


def decoded(address: int, size: int) -> str:
    return ctypes.string_at(address, size).decode("utf-8", "surrogateescape")


# -------------------------------------------------------------------- memory of somebody's


class _PyBuffer(ctypes.Structure):
    """Py_buffer of CPython's stable ABI."""

    _fields_ = [("buf", c_void_p), ("obj", c_void_p), ("len", ctypes.c_ssize_t),
                ("itemsize", ctypes.c_ssize_t), ("readonly", c_int), ("ndim", c_int),
                ("format", c_void_p), ("shape", c_void_p), ("strides", c_void_p),
                ("suboffsets", c_void_p), ("internal", c_void_p)]


# The GIL is kept, and exceptions come through.
_get_buffer = ctypes.pythonapi["PyObject_GetBuffer"]
_get_buffer.argtypes = [ctypes.py_object, c_void_p, c_int]
_get_buffer.restype = c_int
_release_buffer = ctypes.pythonapi["PyBuffer_Release"]
_release_buffer.argtypes = [c_void_p]
_release_buffer.restype = None
_PYBUF_SIMPLE = 0  # one piece of bytes; an object that cannot say so raises


class Pinned:
    """Where the bytes of an object with the buffer protocol are; they stay there until the end of
    the `with`. Also of read-only objects, which ctypes itself gives no address of."""

    __slots__ = ("_view", "address", "size")

    def __init__(self, data: Any) -> None:
        self._view = _PyBuffer()
        _get_buffer(data, ctypes.byref(self._view), _PYBUF_SIMPLE)
        self.address = self._view.buf
        self.size = self._view.len

    def __enter__(self) -> "Pinned":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        _release_buffer(ctypes.byref(self._view))


class Lease:
    """Lives for as long as anything refers to memory that was lent: every view of that memory,
    whatever was made of it (a slice, an array of numpy), keeps the region alive on which it
    stands, and the region keeps this. With it lives what maps the memory."""

    __slots__ = ("owner", "__weakref__")

    def __init__(self, owner: object) -> None:
        self.owner = owner


@functools.lru_cache(maxsize=1024)
def _region_type(size: int) -> Any:
    return ctypes.c_char * size  # takes microseconds to make, hence kept


def view_of(address: Optional[int], size: int, lease: Lease) -> memoryview:
    """Bytes at `address`, which `lease` stands for."""
    region = _region_type(size).from_address(address) if address else _region_type(size)()
    region.lease = lease
    return memoryview(region).cast("B")


def ended(lease: "Optional[weakref.ref[Lease]]") -> bool:
    return lease is None or lease() is None


# ----------------------------------------------------------------------------------- time

SLICE_NS = 1_000_000_000


def nanoseconds(seconds: Optional[float], what: str = "timeout") -> int:
    """Seconds as the library wants them; None: without a limit."""
    if seconds is None:
        return FOREVER
    if not seconds >= 0:
        raise ValueError(f"{what} must be None or a non-negative number of seconds")
    return -1 if seconds > 1e9 else int(seconds * 1e9)


class Patience:
    """One wait of `timeout` seconds (None: for ever), in calls of a second at most: a signal that
    comes just before the library begins to wait, or while it spins, is then heard after a second.
    What the library returns as -EINTR is tried again: until then Python has run its handlers, and
    has left with what they raised."""

    __slots__ = ("_ns", "_deadline_ns")

    def __init__(self, timeout: Optional[float]) -> None:
        self._ns = nanoseconds(timeout)
        self._deadline_ns = time.monotonic_ns() + self._ns if self._ns > 0 else 0

    def run(self, attempt: Callable[[int], int]) -> int:
        """Calls `attempt` with nanoseconds to wait until it returns what is no reason to wait."""
        while True:
            left_ns = self.left_ns()
            result = attempt(SLICE_NS if left_ns < 0 else min(left_ns, SLICE_NS))
            if result == -errno.EINTR:
                continue
            if result == -errno.ETIMEDOUT and not 0 <= left_ns <= SLICE_NS:
                continue
            return result

    def left_ns(self) -> int:
        """As the library wants it. Who may wait does so at least once, however late it is."""
        if self._ns <= 0:
            return self._ns
        return max(1, self._deadline_ns - time.monotonic_ns())
