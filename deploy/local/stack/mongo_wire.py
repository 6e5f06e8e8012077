"""Just enough of MongoDB's wire protocol (OP_MSG, BSON) to start a replica set without a driver.

Formats: https://bsonspec.org/spec.html and the "MongoDB Wire Protocol" page of MongoDB's manual.
"""

import socket
import struct

OP_MSG = 2013
MESSAGE_BYTES = 48_000_000  # the server's own limit


class ObjectId(bytes):
    """Twelve bytes that are an ObjectId rather than binary data."""


class CommandError(Exception):
    def __init__(self, reply):
        super().__init__(reply.get("errmsg", "the command failed"))
        self.code = reply.get("code")


def command(port, body, timeout_s=5):
    """Runs one command on the `admin` database of 127.0.0.1:`port`; its reply, or CommandError, or OSError."""
    payload = struct.pack("<IB", 0, 0) + encode({**body, "$db": "admin"})
    header = struct.pack("<iiii", 16 + len(payload), 1, 0, OP_MSG)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as link:
        link.sendall(header + payload)
        (length,) = struct.unpack("<i", receive(link, 4))
        if not 26 <= length <= MESSAGE_BYTES:
            raise OSError(f"not a MongoDB server: a message of {length} bytes")
        rest = receive(link, length - 4)
    reply, _ = decode(rest, 12 + 4 + 1)  # the header's other fields, flags, section kind 0
    if reply.get("ok") != 1:
        raise CommandError(reply)
    return reply


def receive(link, count):
    parts = bytearray()
    while len(parts) < count:
        part = link.recv(count - len(parts))
        if not part:
            raise OSError("the server closed the connection")
        parts += part
    return bytes(parts)


def encode(document):
    body = b"".join(element(name, value) for name, value in document.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def element(name, value):
    match value:
        case bool():
            kind, data = 0x08, bytes([value])
        case int() if -(2**31) <= value < 2**31:
            kind, data = 0x10, struct.pack("<i", value)
        case int():
            kind, data = 0x12, struct.pack("<q", value)
        case float():
            kind, data = 0x01, struct.pack("<d", value)
        case str():
            text = value.encode() + b"\0"
            kind, data = 0x02, struct.pack("<i", len(text)) + text
        case ObjectId():
            kind, data = 0x07, bytes(value)
        case dict():
            kind, data = 0x03, encode(value)
        case list():
            kind, data = 0x04, encode({str(i): item for i, item in enumerate(value)})
        case None:
            kind, data = 0x0A, b""
        case _:
            raise TypeError(f"{name}: {type(value).__name__} is not sent by these commands")
    return bytes([kind]) + name.encode() + b"\0" + data


def decode(data, at):
    """The document at an offset, and the offset behind it. Types these commands don't read come out as raw bytes."""
    (length,) = struct.unpack_from("<i", data, at)
    end, at, document = at + length, at + 4, {}
    while data[at] != 0:
        kind = data[at]
        stop = data.index(0, at + 1)
        name, at = data[at + 1 : stop].decode(), stop + 1
        match kind:
            case 0x01:
                value, at = struct.unpack_from("<d", data, at)[0], at + 8
            case 0x02:
                (size,) = struct.unpack_from("<i", data, at)
                value, at = data[at + 4 : at + 3 + size].decode(), at + 4 + size
            case 0x03:
                value, at = decode(data, at)
            case 0x04:
                value, at = decode(data, at)
                value = list(value.values())
            case 0x05:
                (size,) = struct.unpack_from("<i", data, at)
                value, at = data[at + 5 : at + 5 + size], at + 5 + size
            case 0x07:
                value, at = ObjectId(data[at : at + 12]), at + 12
            case 0x08:
                value, at = data[at] == 1, at + 1
            case 0x0A:
                value = None
            case 0x10:
                value, at = struct.unpack_from("<i", data, at)[0], at + 4
            case 0x12:
                value, at = struct.unpack_from("<q", data, at)[0], at + 8
            case 0x09 | 0x11:
                value, at = data[at : at + 8], at + 8
            case _:
                raise OSError(f"BSON type {kind:#x} in {name} is not expected here")
        document[name] = value
    return document, end
