"""Writes the stubs in src/jobtrack/_proto from proto/: `python generate.py [FOLDER]`. Needs grpcio-tools.

The modules that protoc writes name the version of protobuf that made them. They refuse to load with an older version,
and with one that is two major versions newer. The modules of this script contain only the descriptors, and load with
any version that the package allows.
"""

import base64
import sys
import tempfile
import textwrap
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTOS = HERE.parents[1] / "proto"
FOLDER = HERE / "src" / "jobtrack" / "_proto"
FILES = ["jobtrack/v1/job.proto", "jobtrack/v1/job_service.proto"]

MODULE = '''"""Messages of {name}. Written by generate.py."""

from jobtrack._proto import {imports}

_pool.add(
    """
{encoded}
    """
)
{messages}
'''


def descriptor_set(folder):
    """Compiles the protos. Writes types for checkers into a folder, and returns the descriptors by file."""
    out = folder / "descriptors"
    includes = [f"-I{PROTOS}", f"-I{HERE}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    command = ["protoc", *includes, f"--descriptor_set_out={out}", f"--pyi_out={folder}", *FILES, "rpc_status.proto"]
    if protoc.main(command) != 0:
        raise SystemExit("protoc refused the protos")
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


def stem(name):
    """Returns the name of the module of a file."""
    return name.rpartition("/")[2].removesuffix(".proto") + "_pb2"


def module(file):
    """Returns the module of a file."""
    encoded = base64.b64encode(file.SerializeToString(deterministic=True)).decode()
    encoded = textwrap.indent("\n".join(textwrap.wrap(encoded, 108)), "    ")
    own = [stem(name) for name in file.dependency if not name.startswith("google/")]
    imports = ", ".join(["_pool", *(f"{name} as _{name}" for name in own)])
    names = [message.name for message in file.message_type]
    messages = "\n".join(f'{name} = _pool.message("{file.package}.{name}")' for name in names)
    return MODULE.format(name=file.name, imports=imports, encoded=encoded, messages=messages)


def generate(target):
    """Writes all modules and their types into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in descriptor_set(Path(scratch)):
            name = stem(file.name)
            (target / f"{name}.py").write_text(module(file))
            types = (Path(scratch, file.name).parent / f"{name}.pyi").read_text()
            (target / f"{name}.pyi").write_text(types.replace("from jobtrack.v1 import", "from jobtrack._proto import"))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
