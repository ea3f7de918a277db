"""The pool of this package's messages.

A program may have stubs of its own for the same protos, perhaps of another version. A pool holds one version of a file,
so this package has a pool to itself.
"""

import base64
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory, struct_pb2, timestamp_pb2

_POOL = descriptor_pool.DescriptorPool()
for _imported in (any_pb2, duration_pb2, struct_pb2, timestamp_pb2):
    _POOL.AddSerializedFile(_imported.DESCRIPTOR.serialized_pb)


def add(encoded: str) -> None:
    """Adds a file, a FileDescriptorProto in Base64."""
    _POOL.AddSerializedFile(base64.b64decode(encoded))


def message(name: str) -> Any:
    """Returns the class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))
