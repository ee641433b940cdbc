"""gRPC server reflection: tools such as grpcurl learn from it which services and messages there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

# Their descriptors are in protobuf's default pool once they are imported.
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2  # noqa: F401

from app.rpc.method import AnyMethod, DialogueMethod

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The two versions differ in their name only."""


def reflection_methods(services: Iterable[str], files: Iterable[Any] = ()) -> Mapping[str, AnyMethod]:
    """The methods of reflection, by path.

    Args:
        services: the full names of all other services that are served.
        files: FileDescriptorProtos of those that protobuf's default pool lacks; they import nothing.
    """
    names = (*services, *SERVICES)
    servicer = ReflectionServicer(names, pool=_pool(names, files))
    answer = partial(_answer, servicer)
    return {
        f"/{service}/ServerReflectionInfo": DialogueMethod(reflection_pb2.ServerReflectionRequest, answer)
        for service in SERVICES
    }


def _answer(servicer: ReflectionServicer, request: Any) -> Any:
    # Its generator answers each message with one and has no use for a context. Its stubs are wrong.
    answers: Any = servicer.ServerReflectionInfo
    return next(answers(iter((request,)), None))


def _pool(services: Iterable[str], files: Iterable[Any]) -> descriptor_pool.DescriptorPool:
    """The descriptors of `services`, in a pool of its own: `files` must not clash with other packages'."""
    pool, known = descriptor_pool.DescriptorPool(), descriptor_pool.Default()
    added: set[str] = set()
    for file in (*files, _reflection_v1()):
        pool.Add(file)
    for service in services:
        try:
            pool.FindServiceByName(service)
        except KeyError:
            _add(pool, known.FindServiceByName(service).file, added)
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: Any, added: set[str]) -> None:
    """Copy `file` into `pool`, after those that it imports."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    pool.Add(proto)


def _reflection_v1() -> Any:
    """The file of v1, which the package lacks, made from that of v1alpha."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
