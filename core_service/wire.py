"""Protobuf messages as bytes, put together without building them; hides tags and lengths.

Of what follows one another in a message's bytes, the last value of a field counts, repeated fields grow and
messages are merged. So an event's bytes, followed by those of what the core adds, are the event with that.
"""

from google.protobuf.descriptor import Descriptor

_LENGTH_DELIMITED = 2


def tag_of(message: Descriptor, name: str) -> bytes:
    """Give what stands before a field that is a string, bytes or a message."""
    return _varint(message.fields_by_name[name].number << 3 | _LENGTH_DELIMITED)


def field(tag: bytes, value: bytes) -> bytes:
    """Give a message that has only that field, in bytes."""
    return tag + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)
