#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Python package against a private ipcbusd each test (tool_case.py), publisher and reader in
different processes where it matters: what arrives, memory in place and what is left of it
afterwards, losses, waits and signals, event loops, forks, threads, every error, the examples of
README.md.
The package from IPCBUS_TEST_PYTHON, README.md and ipcbus.h from IPCBUS_TEST_SOURCE.
"""

import asyncio
import contextlib
import errno
import gc
import io
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from array import array

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
sys.dont_write_bytecode = True
sys.path.insert(0, os.environ["IPCBUS_TEST_PYTHON"])
from tool_case import LONG, Case  # noqa: E402
import ipcbus  # noqa: E402
from ipcbus import _native  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None

SOURCE = os.environ["IPCBUS_TEST_SOURCE"]
MIB = 1 << 20


class PythonCase(Case):
    def setUp(self):
        super().setUp()
        # What is made with it is closed before the directory goes.
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)

    def open_bus(self, **options):
        return self.stack.enter_context(ipcbus.Bus(self.address, timeout=LONG, **options))

    def script(self, text):
        """Another process with the package; `bus` is there. It says "ready" where it calls that."""
        head = ("import sys, ipcbus\nsys.dont_write_bytecode = True\nfrom array import array\n"
                "def ready(): print('ready', flush=True)\n"
                f"bus = ipcbus.Bus(timeout={LONG})\n")
        environment = dict(self.environment, PYTHONPATH=os.environ["IPCBUS_TEST_PYTHON"],
                           IPCBUS_LIBRARY=_native.library._name, PYTHONDONTWRITEBYTECODE="1")
        process = subprocess.Popen([sys.executable, "-c", head + text], env=environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    def until(self, reader, reached):
        """Waits with `reader`, to which nothing is published, until `reached` says so."""
        deadline = time.monotonic() + LONG
        while not reached():
            self.assertLess(time.monotonic(), deadline)
            with contextlib.suppress(ipcbus.Timeout):
                reader.receive(0.01)

    def assertEnds(self, process, out=""):
        self.assertEqual(process.communicate(timeout=LONG)[0], out)
        self.assertEqual(process.returncode, 0)


class Messages(PythonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.bus = self.open_bus()

    def test_everything_with_a_buffer_arrives_in_another_process(self):
        reader = self.script("subscriber = bus.subscribe('t/#')\nready()\n"
                             "for message in subscriber:\n"
                             "    print(message.topic, message.data, message.sequence)\n"
                             "    if message.data == b'end': break\n")
        topic = self.bus.advertise("t/one")
        topic.wait_subscribers(1, LONG)
        self.assertEqual(topic.subscriber_count, 1)
        written = tempfile.TemporaryFile(dir=self.directory)
        written.write(b"of a file")
        written.flush()
        read_only = mmap.mmap(written.fileno(), 9, prot=mmap.PROT_READ)
        for data in (b"", b"a\0b", bytearray(b"array of bytes"), memoryview(b"0123456789")[2:5],
                     array("H", [0x4142, 0x4344]), read_only):
            topic.publish(data)
        topic.publish_many([b"1", bytearray(b"2"), memoryview(b"33")])
        topic.publish_many([])
        topic.publish(b"end")
        read_only.close()
        written.close()
        said = [b"", b"a\0b", b"array of bytes", b"234", b"BADC", b"of a file", b"1", b"2", b"33",
                b"end"]
        self.assertEnds(reader, "".join(f"t/one {data!r} {number}\n"
                                        for number, data in enumerate(said, 1)))

    def test_history(self):
        publisher = self.bus.advertise("t")
        publisher.publish_many([b"%d" % i for i in range(5)])
        for history, first in ((0, 5), (1, 4), (3, 2), (5, 0), (100, 0), (None, 0)):
            with self.bus.subscribe("t", history=history) as reader:
                received = []
                with contextlib.suppress(ipcbus.WouldBlock):
                    while True:
                        received.append(int(reader.receive(timeout=0).data))
                self.assertEqual(received, list(range(first, 5)))
        for history in (-1, 2**64):
            with self.assertRaises(ValueError):
                self.bus.subscribe("t", history=history)

    def test_what_has_no_buffer_is_refused(self):
        publisher = self.bus.advertise("t")
        reader = self.bus.subscribe("t")
        for data, kind in (("text", TypeError), (7, TypeError), (None, TypeError),
                           (memoryview(b"abcdef")[::2], BufferError)):
            with self.assertRaises(kind):
                publisher.publish(data)
            with self.assertRaises(kind):
                publisher.publish_many([b"x", data])
        pinned = bytearray(b"x")
        with self.assertRaises(TypeError):
            publisher.publish_many([pinned, 3])
        pinned.append(1)  # not held any more
        with self.assertRaises(ipcbus.WouldBlock):
            reader.receive(0)

    def test_topics_under_a_filter(self):
        readers = self.bus.subscribe("plant/+/temp"), self.bus.subscribe("#", mode="lossy")
        publisher = self.bus.advertise("plant/#")
        publisher.publish(b"21.5", "plant/7/temp")
        publisher.publish(b"x", topic="plant/bär")
        with publisher.claim(2, "plant/8/temp") as view:
            view[:] = b"22"
        with readers[0].borrow_many(1, LONG) as messages:
            self.assertEqual([(m.topic, bytes(m.data)) for m in messages],
                             [("plant/7/temp", b"21.5")])
        with readers[1].borrow_many(9, LONG) as messages:
            self.assertEqual([m.topic for m in messages],
                             ["plant/7/temp", "plant/bär", "plant/8/temp"])
        self.assertEqual(readers[0].receive(LONG).topic, "plant/8/temp")
        for topic in (None, "elsewhere", "plant/+"):
            with self.assertRaises(ipcbus.InvalidArgument):
                publisher.publish(b"", topic)

    def test_16_mib_in_place_both_ways(self):
        self.script("requests = bus.subscribe('request')\n"
                    "answers = bus.advertise('answer', ring_bytes=1 << 26)\nready()\n"
                    "with requests.borrow() as message, answers.claim(len(message.data)) as view:\n"
                    "    view.cast('Q')[:] = message.data.cast('Q')[::-1]\n"
                    "bus.subscribe('end').receive()\n")
        answers = self.bus.subscribe("answer")
        requests = self.bus.advertise("request", ring_bytes=64 * MIB)
        self.assertEqual((requests.ring_bytes, requests.message_bytes_max), (64 * MIB, 16 * MIB))
        numbers = array("Q", range(16 * MIB // 8))
        with requests.claim(16 * MIB) as view:
            view.cast("Q")[:] = memoryview(numbers)
        with answers.borrow(LONG) as message:
            self.assertTrue(message.data.readonly)
            self.assertEqual(len(message.data), 16 * MIB)
            self.assertEqual(message.data.cast("Q")[3], numbers[-4])
            self.assertEqual(message.data, memoryview(numbers).cast("B").cast("Q")[::-1].tobytes())
        requests.publish(numbers)
        with self.assertRaises(ipcbus.MessageTooLarge) as raised:
            requests.publish(bytes(16 * MIB + 1))
        self.assertEqual(raised.exception.errno, errno.EMSGSIZE)

    def test_a_set_tells_who_has_something(self):
        one, two = self.bus.subscribe("one"), self.bus.subscribe("two")
        publishers = {one: self.bus.advertise("one"), two: self.bus.advertise("two")}
        both = self.bus.make_set(one, two)
        self.assertEqual((len(both), one in both), (2, True))
        with self.assertRaises(ipcbus.WouldBlock):
            both.wait(0)
        for subscriber in (two, one, one):
            publishers[subscriber].publish(b"x")
            self.assertIs(both.wait(LONG), subscriber)
            subscriber.receive(0)
        with self.assertRaises(ipcbus.Busy):
            self.bus.make_set(one)
        one.close()
        self.assertEqual((len(both), one in both), (1, False))
        both.remove(two)
        with self.assertRaises(ipcbus.NotFound):
            both.wait(0)
        with self.assertRaises(ipcbus.NotFound):
            both.remove(two)
        both.close()
        publishers[two].publish(b"y")
        self.assertEqual(two.receive(LONG).data, b"y")

    def test_garbage_ends_what_it_was(self):
        watcher = self.bus.subscribe("t/#")

        def make():
            things = {"bus": ipcbus.Bus(self.address)}
            things["publishers"] = [things["bus"].advertise(f"t/{i}") for i in range(5)]
            things["subscriber"] = things["bus"].subscribe("t/#")
            things["set"] = things["bus"].make_set(things["subscriber"])
            things["publishers"][0].publish(b"1")
            with things["subscriber"].borrow() as message:
                self.assertEqual(bytes(message.data), b"1")
            things["things"] = things  # a cycle: all at once
        for _ in range(5):
            make()
        gc.collect()
        self.until(watcher, lambda: watcher.publication_count == 0)
        kept = [self.bus.advertise("t/1"), self.bus.advertise("t/2")]  # while the bus lives
        self.until(watcher, lambda: watcher.publication_count == 2)
        kept.pop()
        self.until(watcher, lambda: watcher.publication_count == 1)
        kept[0].close()
        self.until(watcher, lambda: watcher.publication_count == 0)


class InPlace(PythonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.bus = self.open_bus()
        self.publisher = self.bus.advertise("t")
        self.reader = self.bus.subscribe("t")

    def test_views_end_with_their_block(self):
        with self.publisher.claim(4) as view:
            view[:] = b"data"
        with self.reader.borrow(LONG) as message:
            self.assertEqual(bytes(message.data), b"data")
            with self.assertRaises(TypeError):
                message.data[0] = 1
            with self.assertRaises(ipcbus.Busy):
                self.reader.receive(0)
        for used in (lambda: view[0], lambda: message.data[0], lambda: bytes(message.data)):
            with self.assertRaises(ValueError):
                used()
        with self.assertRaises(ipcbus.WouldBlock):
            self.reader.receive(0)

    def test_a_block_that_raises_publishes_nothing(self):
        with self.assertRaises(ZeroDivisionError):
            with self.publisher.claim(4) as view:
                view[:] = b"data"
                view[0] = 1 // 0
        self.publisher.publish(b"next")
        message = self.reader.receive(LONG)
        self.assertEqual((message.data, message.sequence), (b"next", 1))
        with self.publisher.claim(1):
            with self.assertRaises(ipcbus.Busy):
                self.publisher.publish(b"x")

    def test_what_is_made_of_a_claim_must_be_gone(self):
        for made in (lambda v: v[1:], lambda v: v.cast("H"), memoryview, lambda v: iter(v[:2])):
            with self.assertRaisesRegex(BufferError, "still refers"):
                with self.publisher.claim(4) as view:
                    kept = made(view)
            for use in (lambda: self.publisher.publish(b"x"),
                        lambda: self.publisher.claim(1).__enter__()):
                with self.assertRaises(ipcbus.Busy):
                    use()
            with self.assertRaises(BufferError):
                self.publisher.close()
            del kept
            self.publisher.publish(b"y")
            self.assertEqual(self.reader.receive(LONG).data, b"y")

    def test_what_is_made_of_a_loan_must_be_gone(self):
        others = [self.bus.advertise(f"other/{i}") for i in range(10)]
        for borrow in (lambda: self.reader.borrow(LONG), lambda: self.reader.borrow_many(2, LONG)):
            self.publisher.publish_many([b"one", b"two"])
            with self.assertRaisesRegex(BufferError, "still refers"):
                with borrow() as lent:
                    kept = (lent if isinstance(lent, tuple) else lent[0]).data[1:]
            self.assertEqual(bytes(kept), b"ne")  # the memory stays
            with self.assertRaises(ipcbus.Busy):
                self.reader.receive(0)
            for closing in (self.reader, self.bus):
                with self.assertRaises(BufferError):
                    closing.close()
            for other in others:  # the bus closes all or nothing
                other.publish(b"")
            del kept
            self.publisher.publish(b"end")
            while self.reader.receive(LONG).data != b"end":
                pass

    def test_a_view_keeps_all_it_needs_alive(self):
        bus = ipcbus.Bus(self.address)
        reader = bus.subscribe("t")
        self.publisher.publish(b"data")
        kept = []
        with self.assertRaises(BufferError):
            with reader.borrow(LONG) as message:
                kept.append(message.data[:])
        del bus, reader, message
        gc.collect()
        self.assertEqual(bytes(kept[0]), b"data")

    def test_an_exception_is_not_hidden_by_what_it_keeps_alive(self):
        self.publisher.publish(b"data")
        with self.assertRaises(ZeroDivisionError):
            with self.reader.borrow(LONG) as message:
                part = message.data[1:]
                part[0] // 0
        del part
        self.publisher.publish(b"next")
        self.assertEqual(self.reader.receive(LONG).data, b"next")

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numpy(self):
        numbers = numpy.arange(1000, dtype="f8").reshape(10, 100)
        with self.publisher.claim(numbers.nbytes) as view:
            numpy.frombuffer(view, "f8").reshape(10, 100)[:] = numbers
        with self.reader.borrow(LONG) as message:
            self.assertFalse(numpy.frombuffer(message.data, "f8").flags.writeable)
            self.assertEqual(numpy.frombuffer(message.data, "f8").sum(), numbers.sum())
        self.publisher.publish(numbers)
        with self.assertRaises(BufferError):
            with self.reader.borrow(LONG) as message:
                kept = numpy.frombuffer(message.data, "f8")[3:].reshape(-1, 1)
        self.assertEqual(kept[0, 0], 3)
        with self.assertRaises(ipcbus.Busy):
            self.reader.receive(0)
        del kept
        with self.assertRaises(ipcbus.WouldBlock):
            self.reader.receive(0)
        with self.assertRaises((ValueError, BufferError)):
            self.publisher.publish(numbers.T)


class Losses(PythonCase):
    COUNT = 5000

    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.bus = self.open_bus()
        self.publisher = self.bus.advertise("t", ring_bytes=65536)

    def overtake(self):
        self.publisher.publish_many(b"%063d\n" % number for number in range(1, self.COUNT + 1))
        self.publisher.publish(b"end")

    def test_they_are_raised_and_iteration_goes_on(self):
        reader = self.bus.subscribe("t", mode="lossy")
        self.overtake()
        with self.assertRaises(ipcbus.LostMessages) as raised:
            for _ in reader:
                self.fail("a message before the loss")
        loss = raised.exception
        self.assertEqual((loss.errno, loss.topic), (errno.ESTALE, "t"))
        self.assertIn(f"{loss.lost} messages of 't' were lost", str(loss))
        number = loss.lost
        for message in reader:
            number += 1
            self.assertEqual((message.sequence, message.publication), (number, loss.publication))
            if message.data == b"end":
                break
            self.assertEqual(int(message.data), number)
        self.assertEqual(number, self.COUNT + 1)
        self.assertEqual(reader.lost, loss.lost)

    def test_or_told_to_on_lost(self):
        losses = []
        reader = self.bus.subscribe("t", mode="lossy", on_lost=losses.append)
        self.overtake()
        with reader.borrow_many(10, LONG) as messages:
            self.assertEqual([int(bytes(message.data)) for message in messages],
                             [losses[0].lost + i for i in range(1, 11)])
        self.assertEqual([loss.lost for loss in losses], [reader.lost])

    def test_latest_has_them_in_the_message(self):
        reader = self.bus.subscribe("t", mode="latest")
        self.overtake()
        message = reader.receive(LONG)
        self.assertEqual((message.data, message.lost, reader.lost),
                         (b"end", self.COUNT, self.COUNT))

    def test_a_loan_that_was_overwritten(self):
        reader = self.bus.subscribe("t", mode="lossy")
        self.publisher.publish(b"first")
        with self.assertRaises(ipcbus.Overwritten):
            with reader.borrow(LONG) as message:
                self.assertEqual(bytes(message.data), b"first")
                self.overtake()
        with self.assertRaises(ipcbus.LostMessages) as raised:
            reader.receive(0)
        self.assertEqual(reader.receive(0).sequence, raised.exception.lost + 1)


class Waits(PythonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.bus = self.open_bus()
        self.addCleanup(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)

    def waits(self, reader, publisher):
        both = self.bus.make_set(self.bus.subscribe("nothing"))
        return (lambda timeout: reader.receive(timeout),
                lambda timeout: reader.borrow(timeout).__enter__(),
                lambda timeout: reader.borrow_many(3, timeout).__enter__(),
                lambda timeout: both.wait(timeout),
                lambda timeout: publisher.wait_subscribers(99, timeout))

    def test_timeouts(self):
        reader, publisher = self.bus.subscribe("t"), self.bus.advertise("u")
        for wait in self.waits(reader, publisher):
            with self.assertRaises(BlockingIOError) as raised:
                wait(0)
            self.assertEqual(raised.exception.errno, errno.EAGAIN)
            self.assertIsInstance(raised.exception, TimeoutError)
            began = time.monotonic()
            with self.assertRaises(TimeoutError) as raised:
                wait(0.05)
            self.assertEqual(raised.exception.errno, errno.ETIMEDOUT)
            self.assertNotIsInstance(raised.exception, BlockingIOError)
            self.assertGreaterEqual(time.monotonic() - began, 0.05)
            for wrong in (-1, float("nan")):
                with self.assertRaises(ValueError):
                    wait(wrong)
        began = time.monotonic()  # more than one piece
        with self.assertRaises(ipcbus.Timeout):
            reader.receive(1.05)
        self.assertGreaterEqual(time.monotonic() - began, 1.05)

    def test_signal_handlers_run_and_the_wait_goes_on(self):
        reader, publisher = self.bus.subscribe("t"), self.bus.advertise("u")
        heard = []
        signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
        for wait in self.waits(reader, publisher):
            heard.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            began = time.monotonic()
            with self.assertRaises(ipcbus.Timeout):
                wait(0.15)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.assertGreaterEqual(time.monotonic() - began, 0.15)
            self.assertGreaterEqual(len(heard), 2)

    def test_ctrl_c_ends_a_wait(self):
        reader, publisher = self.bus.subscribe("t"), self.bus.advertise("u")

        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for wait in self.waits(reader, publisher):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            began = time.monotonic()
            with self.assertRaises(KeyboardInterrupt):
                wait(None)
            self.assertLess(time.monotonic() - began, LONG / 2)
        self.bus.advertise("t").publish(b"x")
        self.assertEqual(reader.receive(LONG).data, b"x")
        # One that never sleeps is interrupted, too, after a second at most.
        spinning = self.bus.subscribe("s", spin=float("inf"))
        for timeout in (None, LONG):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            began = time.monotonic()
            with self.assertRaises(KeyboardInterrupt):
                spinning.receive(timeout)
            self.assertLess(time.monotonic() - began, LONG / 2)

    def test_the_default_handler_of_sigint(self):
        process = self.script("import signal\nsignal.signal(2, signal.default_int_handler)\n"
                              "subscriber = bus.subscribe('t')\n"
                              "try:\n    ready()\n    subscriber.receive()\n"
                              "except KeyboardInterrupt: print('interrupted')\n")
        process.send_signal(signal.SIGINT)
        self.assertEnds(process, "interrupted\n")

    def test_max_block(self):
        reader = ipcbus.Bus(self.address).subscribe("t")
        publisher = self.bus.advertise("t", ring_bytes=65536, max_block=0)
        with self.assertRaises(ipcbus.WouldBlock) as raised:
            publisher.publish_many([bytes(1000)] * 1000)
        published = raised.exception.published
        self.assertTrue(10 < published < 1000, published)
        self.assertEqual(publisher.max_block, 0)
        publisher.max_block = 0.15
        heard = []
        signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
        for publish in (lambda: publisher.publish(bytes(1000)),
                        lambda: publisher.claim(1000).__enter__()):
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            began = time.monotonic()
            with self.assertRaises(ipcbus.Timeout):
                publish()
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.assertGreaterEqual(time.monotonic() - began, 0.15)
        self.assertGreaterEqual(len(heard), 2)
        for _ in range(published):
            self.assertEqual(len(reader.receive(0).data), 1000)
        publisher.publish(b"room again")
        self.assertEqual(reader.receive(0).data, b"room again")


    def test_publish_many_goes_on_after_a_signal(self):
        reader = ipcbus.Bus(self.address).subscribe("t")
        publisher = self.bus.advertise("t", ring_bytes=65536)
        received = []

        def drain(*_):
            with contextlib.suppress(ipcbus.WouldBlock):
                for _ in range(20):
                    received.append(int(reader.receive(0).data))
        signal.signal(signal.SIGALRM, drain)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        publisher.publish_many(b"%01000d" % number for number in range(300))
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.assertGreater(len(received), 100)
        for _ in range(300 - len(received)):
            received.append(int(reader.receive(0).data))
        self.assertEqual(received, list(range(300)))


class EventLoops(PythonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.bus = self.open_bus()

    def drain(self, reader):
        """Receives what is there, until there is nothing."""
        received = []
        with contextlib.suppress(ipcbus.WouldBlock):
            while True:
                received.append(reader.receive(timeout=0).data)
        return received

    def quiet(self, reader, finds_nothing):
        """Whether it stops being readable when nothing is found; who is delayed for 16 ms finds it
        readable once more."""
        for _ in range(100):
            with self.assertRaises(ipcbus.WouldBlock):
                finds_nothing()
            if not select.select([reader], [], [], 0)[0]:
                return True
        return False

    def test_asyncio_gets_what_another_process_publishes(self):
        count = 1000
        reader = self.bus.subscribe("t")
        replies = self.bus.advertise("reply")
        writer = self.script("replies = bus.subscribe('reply')\nt = bus.advertise('t')\nready()\n"
                             f"for i in range({count}):\n"
                             "    t.publish(str(i).encode())\n"
                             "    if i % 3 == 0: replies.receive()\n")
        received = []

        async def main():
            loop = asyncio.get_running_loop()
            over = loop.create_future()

            def ready():
                for data in self.drain(reader):
                    if int(data) % 3 == 0:
                        replies.publish(b"next")
                    received.append(int(data))
                if len(received) == count:
                    over.set_result(None)
            loop.add_reader(reader, ready)
            replies.wait_subscribers(1, LONG)
            await asyncio.wait_for(over, LONG)
            loop.remove_reader(reader)

        asyncio.run(main())
        self.assertEqual(received, list(range(count)))
        self.assertEnds(writer)

    def test_select_with_a_subscriber_and_with_a_set(self):
        publisher = self.bus.advertise("t")
        alone = self.bus.subscribe("t")
        self.assertEqual(alone.fileno(), alone.fileno())
        member = self.bus.subscribe("t")
        several = self.bus.make_set(member)
        with self.assertRaises(ipcbus.Busy):
            member.fileno()
        with self.assertRaises(ipcbus.Busy):
            several.add(alone)
        for _ in range(3):
            self.assertTrue(self.quiet(alone, lambda: alone.receive(timeout=0)))
            self.assertTrue(self.quiet(several, lambda: several.wait(timeout=0)))
            publisher.publish(b"1")
            publisher.publish(b"2")
            for reader in (alone, several):
                self.assertEqual(select.select([reader], [], [], LONG)[0], [reader])
            self.assertIs(several.wait(timeout=0), member)
            self.assertEqual(self.drain(alone), [b"1", b"2"])
            self.assertEqual(self.drain(member), [b"1", b"2"])
        several.close()
        with self.assertRaises(ValueError):
            several.fileno()
        self.assertGreaterEqual(member.fileno(), 0)


class Lives(PythonCase):
    def test_after_a_fork(self):
        self.start_daemon()
        bus = self.open_bus()
        publisher, reader = bus.advertise("t"), bus.subscribe("t")
        both = bus.make_set(reader)
        child = os.fork()
        if child == 0:
            seen = []
            for use in (lambda: publisher.publish(b"x"), lambda: publisher.claim(1).__enter__(),
                        lambda: reader.receive(1), lambda: reader.borrow(1).__enter__(),
                        lambda: both.wait(1), lambda: bus.advertise("u"),
                        lambda: bus.subscribe("u"), lambda: bus.state):
                try:
                    use()
                except ipcbus.Forked as error:
                    seen.append(isinstance(error, ChildProcessError) and "fork" in str(error))
                except BaseException:  # the child must not go on with the tests
                    seen.append(False)
            bus.close()
            try:
                with ipcbus.Bus(self.address) as anew:
                    anew.advertise("t").publish(b"from the child")
            except BaseException:
                seen.append(False)
            os._exit(0 if seen == [True] * 8 else 1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(reader.receive(LONG).data, b"from the child")
        publisher.publish(b"still here")
        self.assertEqual(reader.receive(LONG).data, b"still here")

    def test_threads(self):
        self.start_daemon()
        bus = self.open_bus()
        reader, publisher = bus.subscribe("t"), bus.advertise("t")
        begun = threading.Event()
        received = []

        def receive():
            begun.set()
            received.append(reader.receive(LONG))
        thread = threading.Thread(target=receive)
        thread.start()
        begun.wait()
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:  # until it is inside
            try:
                reader.receive(0)
            except ipcbus.Busy:
                break
            except ipcbus.WouldBlock:
                pass
        for use in (reader.close, bus.close, lambda: reader.receive(0),
                    lambda: bus.make_set(reader)):
            with self.assertRaises(ipcbus.Busy):
                use()
        self.assertEqual(bus.advertise("t").subscriber_count, 1)  # the bus itself goes on
        bus.advertise("t").publish(b"x")
        thread.join()
        self.assertEqual(received[0].data, b"x")
        del publisher

    def test_a_process_ends_while_its_threads_wait(self):
        self.start_daemon()
        process = self.script("import threading\nsubscriber = bus.subscribe('t')\n"
                              "threading.Thread(target=subscriber.receive, daemon=True).start()\n"
                              "inside = False\n"
                              "while not inside:\n"
                              "    try: subscriber.receive(0)\n"
                              "    except ipcbus.Busy: inside = True\n"
                              "    except ipcbus.WouldBlock: pass\n"
                              "ready()\n")
        self.assertEnds(process)

    def test_closed(self):
        self.start_daemon()
        bus = ipcbus.Bus(self.address)
        with bus:
            publisher, reader = bus.advertise("t"), bus.subscribe("t")
            both = bus.make_set(reader)
        for use in (lambda: publisher.publish(b""), lambda: reader.receive(0), lambda: both.wait(0),
                    lambda: bus.subscribe("t"), lambda: bus.state, lambda: reader.lost,
                    lambda: publisher.subscriber_count, lambda: next(reader)):
            with self.assertRaisesRegex(ValueError, "closed"):
                use()
        for thing in (publisher, reader, both, bus):
            thing.close()
            self.assertRegex(repr(thing), "ipcbus.*(closed|Set)")

    def test_without_a_daemon(self):
        with self.assertRaises(ipcbus.NoDaemon) as raised:
            ipcbus.Bus(self.address)
        self.assertIsInstance(raised.exception, ConnectionRefusedError)
        self.assertIn(self.address[5:], str(raised.exception))
        with self.assertRaises((ipcbus.NoDaemon, ipcbus.Timeout)):
            ipcbus.Bus(self.address, timeout=0.05)
        daemon = self.start_daemon()
        lasting, ending = self.open_bus(), self.open_bus(reconnect=False)
        reader, deaf = lasting.subscribe("t"), ending.subscribe("t")
        publisher = lasting.advertise("t")
        self.assertEqual((lasting.state, ending.state), (ipcbus.State.CONNECTED,) * 2)
        publisher.publish(b"before")
        self.assertEqual([r.receive(LONG).data for r in (reader, deaf)], [b"before"] * 2)
        daemon.kill()
        daemon.wait()
        publisher.publish(b"goes on")
        self.assertEqual(reader.receive(LONG).data, b"goes on")
        self.assertEqual(deaf.receive(LONG).data, b"goes on")
        # The kernel closes the sockets of a process that is dead already.
        self.until(reader, lambda: (lasting.state, ending.state)
                   == (ipcbus.State.ORPHANED, ipcbus.State.CLOSED))
        with self.assertRaises(ipcbus.Disconnected):
            deaf.receive(LONG)
        self.start_daemon()
        self.until(reader, lambda: lasting.state == ipcbus.State.CONNECTED)
        self.assertEqual(lasting.reconnects, 1)


class Requests(PythonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.client, self.server = self.open_bus(), self.open_bus()

    def test_one_asks_one_answers(self):
        with self.server.serve("calc/+") as responder, \
                self.client.make_requester("calc/add") as requester:
            requester.wait_responders(1, LONG)
            self.assertEqual((requester.responder_count, requester.request_bytes_max), (1, 16384))
            for data in (b"", b"1 2", bytes(range(256)) * 60, array("d", [1.5])):
                number = requester.ask(data)
                request = responder.next_request(LONG)
                self.assertEqual((request.topic, request.data, request.sequence, request.uid),
                                 ("calc/add", bytes(data), number, os.getuid()))
                responder.respond(request, request.data, status=7, more=True)
                responder.respond(request, b"")
                first, second = requester.next_reply(LONG), requester.next_reply(LONG)
                self.assertEqual((first.data, first.status, first.more), (bytes(data), 7, True))
                self.assertEqual((second.data, second.status, second.more), (b"", 0, False))
                self.assertEqual({first.request, second.request}, {number})
            self.assertEqual(responder.requester_count, 1)
            with self.assertRaises(ipcbus.NotFound):
                requester.next_reply(0)

    def test_call(self):
        responder = self.server.serve("echo")

        def answer():
            for request in responder:
                responder.respond(request, request.data.upper())
                if request.data == b"end":
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        requester = self.client.make_requester("echo")
        for i in range(100):
            self.assertEqual(requester.call(b"call %d" % i, LONG).data, b"CALL %d" % i)
        pending = requester.ask(b"async", all=True)
        with self.assertRaises(ipcbus.Busy):
            requester.call(b"x")
        self.assertEqual(requester.next_reply(LONG).request, pending)
        with self.assertRaises(ipcbus.NotFound):
            requester.next_reply(LONG)
        self.assertEqual(requester.call(b"end", LONG).data, b"END")
        thread.join()

    def test_what_goes_wrong(self):
        requester = self.client.make_requester("t", request_bytes_max=1024, reply_bytes_max=1024)
        with self.assertRaises(ipcbus.NobodyServes):
            requester.call(b"x")
        responder = self.server.serve("t")
        with self.assertRaises(ipcbus.Timeout):
            requester.call(b"late", 0.01)
        with self.assertRaises(ipcbus.WouldBlock):
            requester.call(b"at once", 0)
        with self.assertRaises(ipcbus.MessageTooLarge):
            requester.call(bytes(1025))
        late = responder.next_request(LONG)
        with self.assertRaises(ipcbus.MessageTooLarge):
            responder.respond(late, bytes(1025))
        responder.respond(late, b"nobody's")
        self.assertEqual(responder.next_request(LONG).data, b"at once")
        number = requester.ask(b"to nobody")
        self.assertEqual(responder.next_request(LONG).data, b"to nobody")
        with self.assertRaises(ipcbus.WouldBlock):
            responder.next_request(0)
        responder.close()
        with self.assertRaises(ipcbus.PeerGone) as raised:
            requester.next_reply(LONG)
        self.assertEqual(raised.exception.request, number)
        with self.assertRaises(ValueError):
            responder.next_request(0)
        for use in (lambda: self.client.make_requester("a/#"), lambda: self.client.serve("a//b")):
            with self.assertRaises(ipcbus.InvalidArgument):
                use()


class RequestLimits(PythonCase):
    def test_no_ring_to_answer_in(self):
        self.start_daemon('[limits.per_uid]\nring_bytes = "4MiB"\n')
        client, server = self.open_bus(), self.open_bus()
        responder = server.serve("t")
        requester = client.make_requester("t", reply_bytes_max=1024 * 1024)
        number = requester.ask(b"x")
        request = responder.next_request(LONG)
        with self.assertRaises(ipcbus.LimitReached):
            responder.respond(request, b"y")
        with self.assertRaises(ipcbus.LimitReached) as raised:
            requester.next_reply(LONG)
        self.assertEqual(raised.exception.request, number)
        with self.assertRaises(ipcbus.NotFound):
            requester.next_reply(0)
        with self.assertRaises(ipcbus.Timeout):
            requester.call(b"which is not busy", 0.001)


class Errors(PythonCase):
    def test_the_table_is_that_of_the_header(self):
        with open(os.path.join(SOURCE, "libclient/include/ipcbus/ipcbus.h"),
                  encoding="utf-8") as file:
            header = file.read()
        table = header[header.index("RESULTS."):header.index("TIMES are")]
        names = set(re.findall(r"-(E[A-Z]+)", table)) - {"EINTR"}
        self.assertGreater(len(names), 15)
        self.assertEqual({getattr(errno, name) for name in names}, set(_native.ERRORS))
        self.assertEqual(len(set(_native.ERRORS.values())), len(names))
        for name in names:
            number = getattr(errno, name)
            kind = _native.ERRORS[number]
            self.assertTrue(issubclass(kind, ipcbus.IpcbusError))
            self.assertIs(getattr(ipcbus, kind.__name__), kind)
            self.assertIn(kind.__name__, ipcbus.__all__)
            self.assertTrue(kind.__doc__.startswith(name + ": "))
            self.assertEqual(str(kind(number, "words")), f"[Errno {number}] words")
        declared = set(re.findall(r"^IPCBUS_EXPORT[^(]*?(ipcbus_\w+)\(", header, re.MULTILINE))
        self.assertEqual(declared - set(_native.PROTOTYPES),
                         {"ipcbus_receive", "ipcbus_protocol_version", "ipcbus_layout_version"})
        self.assertEqual(set(_native.PROTOTYPES) - declared, set())
        self.assertRegex(ipcbus.library_version(), r"^\d+\.\d+\.\d+$")

    def test_wrong_arguments(self):
        self.start_daemon()
        bus = self.open_bus(name="a name")
        for use, kind in (
                (lambda: bus.advertise(""), ipcbus.InvalidArgument),
                (lambda: bus.advertise("a//b"), ipcbus.InvalidArgument),
                (lambda: bus.advertise("a\0b"), ValueError),
                (lambda: bus.advertise(b"a"), (TypeError, AttributeError)),
                (lambda: bus.advertise("a", ring_bytes=1 << 50), ipcbus.IpcbusError),
                (lambda: bus.advertise("a", ring_bytes=-1), ValueError),
                (lambda: bus.advertise("a", max_block=-1), ValueError),
                (lambda: bus.subscribe("a/#/b"), ipcbus.InvalidArgument),
                (lambda: bus.subscribe("a", mode="best"), ValueError),
                (lambda: bus.subscribe("a", spin=-1), ValueError),
                (lambda: bus.subscribe("a").borrow_many(0), ValueError),
                (lambda: bus.advertise("a").claim(-1), ValueError),
                (lambda: ipcbus.Bus("nonsense"), ipcbus.InvalidArgument),
                (lambda: ipcbus.Bus(self.address, name="x" * 65), ipcbus.NameTooLong),
                (lambda: bus.make_set(ipcbus.Bus(self.address).subscribe("a")),
                 ipcbus.InvalidArgument)):
            with self.assertRaises(kind):
                use()
        self.assertTrue(issubclass(ipcbus.InvalidArgument, ValueError))

    def test_a_publish_that_would_wait_for_its_own_thread(self):
        self.start_daemon()
        bus = self.open_bus()
        reader = bus.subscribe("t")
        publisher = bus.advertise("t", ring_bytes=65536)
        with self.assertRaises(ipcbus.WouldDeadlock):
            publisher.publish_many([bytes(1000)] * 1000)
        self.assertEqual(len(reader.receive(0).data), 1000)

    def test_the_library_that_is_not_there(self):
        environment = dict(self.environment, PYTHONPATH=os.environ["IPCBUS_TEST_PYTHON"],
                           IPCBUS_LIBRARY="/nowhere/libipcbus.so.0", PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run([sys.executable, "-c", "import ipcbus"], env=environment, text=True,
                              stderr=subprocess.PIPE, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"ImportError: ipcbus needs its C library: /nowhere/")


class Readme(PythonCase):
    def test_its_example_says_what_it_says(self):
        with open(os.path.join(SOURCE, "README.md"), encoding="utf-8") as file:
            text = file.read()
        examples = re.findall(r"^```python\n(.*?)^```$.*?^    python3 example.py\n(.*?)\n\n",
                              text, re.MULTILINE | re.DOTALL)
        self.assertEqual(len(examples), len(re.findall("^```python$", text, re.MULTILINE)))
        self.assertGreaterEqual(len(examples), 2)
        self.start_daemon()
        self.addCleanup(os.environ.pop, "IPCBUS_ADDRESS", None)
        os.environ["IPCBUS_ADDRESS"] = self.address
        for example, printed in examples:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(example, "README.md", "exec"), {})
            self.assertEqual(out.getvalue(),
                             re.sub("^    ", "", printed, flags=re.MULTILINE) + "\n")


if __name__ == "__main__":
    program = unittest.main(exit=False)
    result = program.result
    bad = len(result.failures) + len(result.errors)
    for test, reason in result.skipped:
        print(f"skipped: {test.id()}: {reason}")
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed")
    sys.exit(1 if bad else 0)
