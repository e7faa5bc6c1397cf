#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A remote client of ipcbusd in pure Python, written from ipcbus-protocol(7) and nothing else:
sockets and struct, no libipcbus. Publishes and subscribes over TCP, beside the tools.
Goal: the manual page is enough to write a client in another language.
"""

import os
import select
import socket
import struct
import subprocess
import tempfile
import threading
import unittest

ASK, SERVE, COLLECT, RESPOND, RESPONDERS = 48, 49, 50, 51, 85
HELLO, ADVERTISE, UNADVERTISE, SUBSCRIBE, UNSUBSCRIBE, DETACHED = 1, 3, 5, 6, 7, 8
WELCOME, ERROR, DONE, ADVERTISED, SUBSCRIBED, ATTACHED, ENDED, STOPPING = 64, 65, 66, 67, 68, 72, 73, 74
LOGIN, DATA, CREDIT, READERS = 80, 81, 82, 83
PRESENT, CLOSED = 1 << 63, 0xc000000000000000
TIMEOUT_S = 20


def up(size):
    return (size + 15) // 16 * 16


def text(value):
    return struct.pack("<H", len(value)) + value


class Client:
    def __init__(self, port, name=b"python", token=None):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.received = b""
        self.request = 0
        self.credit = {}     # publication: bytes that may be sent
        self.sent = {}
        self.sequence = {}
        self.readers = {}
        self.records = {}    # attachment: bytes of the stream, not taken apart
        self.granted = {}
        self.expected = {}
        self.topics = {}
        self.messages = []   # (topic or head, sequence, payload)
        self.origins = []    # of each, ever: the attachment
        self.lineages = {}
        self.responders = {}  # of a publication of requests, once they are known
        self.arriving = {}
        self.lost = 0
        self.ended = []
        if token is not None:
            self.send(LOGIN, 0, text(token))
        self.ask(HELLO, struct.pack("<HHIQ", 1, 0, 2, 0) + text(name), WELCOME)

    def send(self, kind, request, fields):
        self.socket.sendall(struct.pack("<IHHQ", 16 + len(fields), kind, 0, request) + fields)

    def ask(self, kind, fields, answer):
        self.request += 1
        self.send(kind, self.request, fields)
        while True:
            got, request, fields = self.frame()
            if request == self.request:
                if got == ERROR:
                    raise OSError(struct.unpack_from("<I", fields)[0], fields[6:].decode())
                assert got == answer, got
                return fields

    def frame(self):
        while len(self.received) < 4 or len(self.received) < struct.unpack_from("<I", self.received)[0]:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.received += piece
        size, kind, flags, request = struct.unpack_from("<IHHQ", self.received)
        assert flags == 0
        fields, self.received = self.received[16:size], self.received[size:]
        self.take(kind, fields)
        return kind, request, fields

    def take(self, kind, fields):
        if kind == CREDIT:
            stream, size = struct.unpack("<QQ", fields)
            self.credit[stream] = max(size, self.credit.get(stream, 0))
        elif kind == READERS:
            publication, count = struct.unpack("<QI", fields)
            self.readers[publication] = count
        elif kind == RESPONDERS:
            publication, complete, count = struct.unpack_from("<QBH", fields)
            members = self.arriving.setdefault(publication, set())
            members.update(struct.unpack_from(f"<{count}Q", fields, 11))
            (gone,) = struct.unpack_from("<H", fields, 11 + 8 * count)
            members.difference_update(struct.unpack_from(f"<{gone}Q", fields, 13 + 8 * count))
            if complete:
                self.responders[publication] = members
        elif kind == ATTACHED:
            (attachment,) = struct.unpack_from("<Q", fields, 8)
            (self.expected[attachment],) = struct.unpack_from("<Q", fields, 64)
            (size,) = struct.unpack_from("<H", fields, 93)
            self.topics[attachment] = fields[95:95 + size]
            self.lineages[attachment] = fields[73:89]
            self.records[attachment] = b""
            self.grant(attachment, 1 << 20)
        elif kind == DATA:
            stream, offset = struct.unpack_from("<QI", fields)
            if offset == 0:
                self.records[stream] = b""  # what was begun is abandoned
            self.records[stream] += fields[12:]
            self.take_apart(stream)
            self.grant(stream, len(fields) - 12)
        elif kind == ENDED:
            attachment, reason = struct.unpack("<QB", fields)
            self.ended.append(attachment)
            self.send(DETACHED, 0, struct.pack("<Q", attachment))

    def grant(self, attachment, size):
        self.granted[attachment] = self.granted.get(attachment, 0) + size
        self.send(CREDIT, 0, struct.pack("<QQ", attachment, self.granted[attachment]))

    def take_apart(self, stream):
        data = self.records[stream]
        while len(data) >= 16:
            word, sequence = struct.unpack_from("<QQ", data)
            if word == CLOSED:
                self.ended.append(stream)
                self.send(DETACHED, 0, struct.pack("<Q", stream))
                return
            assert word & PRESENT and not word >> 48 & 0x7fff
            payload, topic = word & 0xffffffff, word >> 32 & 0xffff
            if len(data) < 16 + up(topic) + up(payload):
                break
            self.lost += sequence - self.expected[stream]
            self.expected[stream] = sequence + 1
            self.origins.append(stream)
            begin = 16 + up(topic)
            self.messages.append((data[16:16 + topic] or self.topics[stream], sequence,
                                  data[begin:begin + payload]))
            data = data[begin + up(payload):]
        self.records[stream] = data

    def advertise(self, topic):
        return self.advertised(self.ask(ADVERTISE, self.publication(topic, os.urandom(16)),
                                        ADVERTISED))

    def publication(self, topic, lineage):
        return text(topic) + struct.pack("<QII", 0, 0, 0) + lineage + struct.pack("<Q", 1)

    def requests(self, topic):
        lineage = os.urandom(16)
        self.ask(COLLECT, lineage, SUBSCRIBED)
        publication = self.advertised(self.ask(
            ASK, self.publication(topic, lineage) + struct.pack("<Q", 0), ADVERTISED))
        while publication not in self.responders:
            self.frame()
        return publication

    def respond(self, attachment, sequence):
        return self.advertised(self.ask(RESPOND, struct.pack("<QIQ", attachment, 0, sequence),
                                        ADVERTISED))

    def advertised(self, fields):
        (publication,) = struct.unpack_from("<Q", fields)
        self.sent[publication] = 0
        (self.sequence[publication],) = struct.unpack_from("<Q", fields, 32)
        return publication

    def publish(self, publication, payload, topic=b""):
        record = struct.pack("<QQ", PRESENT | len(topic) << 32 | len(payload),
                             self.sequence[publication])
        record += topic.ljust(up(len(topic)), b"\0") + payload.ljust(up(len(payload)), b"\0")
        self.sequence[publication] += 1
        offset = 0
        while offset < len(record):
            room = self.credit.get(publication, 0) - self.sent[publication]
            piece = record[offset:offset + min(room // 16 * 16, 16352)]
            if not piece:
                self.frame()
                continue
            self.send(DATA, 0, struct.pack("<QI", publication, offset) + piece)
            self.sent[publication] += len(piece)
            offset += len(piece)

    def unadvertise(self, publication):
        self.ask(UNADVERTISE, struct.pack("<Q", publication), DONE)

    def subscribe(self, topic_filter, mode=0):
        return struct.unpack_from("<Q", self.ask(SUBSCRIBE, text(topic_filter) +
                                                 struct.pack("<B", mode), SUBSCRIBED))[0]

    def receive(self, count):
        while len(self.messages) < count:
            self.frame()
        got, self.messages = self.messages[:count], self.messages[count:]
        return got


class Remote(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.address = "unix:" + self.directory.name + "/bus.sock"
        self.start([])

    def start(self, options):
        self.daemon = subprocess.Popen(
            [os.environ["IPCBUS_TEST_DAEMON"], "--listen", self.address, "--listen",
             "tcp:127.0.0.1:0"] + options, stderr=subprocess.PIPE, text=True)
        for line in self.daemon.stderr:
            if "tcp:" in line:
                self.port = int(line.rsplit(":", 1)[1])
            if "listening on unix" in line:
                break

    def tearDown(self):
        self.daemon.terminate()
        self.daemon.stderr.read()
        self.assertEqual(self.daemon.wait(TIMEOUT_S), 0)
        self.daemon.stderr.close()
        self.directory.cleanup()

    def tool(self, name, *options, **more):
        return subprocess.Popen([os.environ["IPCBUS_TEST_" + name], "--address", self.address,
                                 *options], **more)

    def test_publishes_to_the_tools(self):
        with self.tool("CAT", "-t", "from/#", "-C", "3", "-v", stdout=subprocess.PIPE) as cat:
            client = Client(self.port)
            publication = client.advertise(b"from/python")
            while client.readers.get(publication, 0) < 1:
                client.frame()
            for payload in (b"one", b"", b"x" * 200000):
                client.publish(publication, payload)
            client.unadvertise(publication)
            out, _ = cat.communicate(timeout=TIMEOUT_S)
        self.assertEqual(out, b"from/python one\nfrom/python \nfrom/python " + b"x" * 200000 + b"\n")
        self.assertEqual(cat.returncode, 0)
        client.socket.close()

    def test_subscribes_to_the_tools(self):
        client = Client(self.port)
        client.subscribe(b"to/+")
        lines = [b"%d" % i * (i % 300) for i in range(5000)]
        with self.tool("PUB", "to/python", "--wait-subs", "1", stdin=subprocess.PIPE) as pub:
            feeder = threading.Thread(
                target=pub.communicate, args=(b"".join(line + b"\n" for line in lines), TIMEOUT_S))
            feeder.start()
            got = client.receive(len(lines))
            feeder.join()
        self.assertEqual([payload for _, _, payload in got], lines)
        self.assertEqual([sequence for _, sequence, _ in got], list(range(1, len(lines) + 1)))
        self.assertEqual({topic for topic, _, _ in got}, {b"to/python"})
        self.assertEqual(client.lost, 0)
        while not client.ended:
            client.frame()
        client.socket.close()

    def test_to_itself_under_a_filter(self):
        client = Client(self.port)
        publication = client.advertise(b"own/#")
        client.subscribe(b"own/b")
        client.publish(publication, b"first", b"own/a")
        client.publish(publication, b"second", b"own/b")
        got = client.receive(2)  # the publication's messages: whose topic is wanted, we look
        self.assertEqual([(topic, payload) for topic, _, payload in got],
                         [(b"own/a", b"first"), (b"own/b", b"second")])
        client.socket.close()

    def test_asks_the_tools(self):
        client = Client(self.port)
        publication = client.requests(b"ask/python")
        self.assertEqual(client.responders[publication], set())
        reply = self.tool("REPLY", "ask/#", "--exec", "tr a-z A-Z")
        try:
            while not client.responders[publication]:
                client.frame()
            (responder,) = client.responders[publication]
            for number in range(1, 4):
                client.publish(publication, b"from afar %d" % number,
                               struct.pack("<QQ", responder, 0))
                (head, _, payload), = client.receive(1)
                self.assertEqual(payload, b"FROM AFAR %d" % number)
                self.assertEqual(struct.unpack("<QII", head), (number, 0, 0))
                lineage = client.lineages[client.origins[-1]]
                self.assertEqual(struct.unpack_from("<Q", lineage), (responder,))
            reply.terminate()
            while client.responders[publication]:  # he has gone
                client.frame()
        finally:
            reply.kill()
            reply.wait()
        client.socket.close()

    def test_answers_the_tools(self):
        client = Client(self.port)
        client.ask(SERVE, text(b"answer/+"), SUBSCRIBED)
        with self.tool("REQ", "answer/python", "-m", "question", stdout=subprocess.PIPE) as req:
            (head, sequence, payload), = client.receive(1)
            self.assertEqual(payload, b"question")
            attachment = client.origins[-1]
            self.assertEqual(struct.unpack_from("<Q", head), (attachment,))
            self.assertEqual(client.topics[attachment], b"answer/python")
            replies = client.respond(attachment, sequence)
            client.publish(replies, b"answer", struct.pack("<QII", sequence, 0, 0))
            out, _ = req.communicate(timeout=TIMEOUT_S)
            self.assertEqual((out, req.returncode), (b"answer\n", 0))
        client.socket.close()

    def test_refusals(self):
        client = Client(self.port)
        with self.assertRaises(OSError) as refused:
            client.advertise(b"a//b")
        self.assertEqual(refused.exception.errno, 22)
        with self.assertRaises(OSError):
            client.unadvertise(12345)
        publication = client.advertise(b"credit")
        while publication not in client.credit:
            client.frame()
        client.send(DATA, 0, struct.pack("<QI", publication, 0) +
                    struct.pack("<QQ", PRESENT, 7))  # of another sequence
        with self.assertRaises(EOFError):
            while True:
                kind, _, fields = client.frame()
                if kind == ERROR:
                    self.assertIn(b"another sequence", fields)
        client.socket.close()

    def test_nothing_beyond_the_credit(self):
        reader = Client(self.port)
        reader.grant = lambda attachment, size: None  # it holds the ring back
        reader.subscribe(b"credit")
        client = Client(self.port)
        publication = client.advertise(b"credit")
        with self.assertRaises((EOFError, ConnectionError)):
            while True:
                client.credit[publication] = 1 << 62
                client.publish(publication, bytes(10000))
                while select.select([client.socket], [], [], 0)[0]:
                    client.frame()
        client.socket.close()
        reader.socket.close()


if __name__ == "__main__":
    unittest.main()
