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
    length = len(value)
    return tag + (_LENGTHS[length] if length < _LENGTHS_KEPT else _varint(length)) + value


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


# Those of most fields: looked up, a field takes half the instructions (2k, not 3.8k).
_LENGTHS_KEPT = 2_048
_LENGTHS = tuple(map(_varint, range(_LENGTHS_KEPT)))
