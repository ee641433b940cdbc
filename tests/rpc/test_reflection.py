from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from app.options import Options
from app.rpc import profiler
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.http2.transport import Http2Server
from app.rpc.reflection import SERVICES, reflection_methods
from tests.support.process import free_port

SERVED = (
    "grpc.health.v1.Health",
    "tensorflow.ProfilerService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)
Served = tuple[GrpcServer | Http2Server, grpc.Channel]
Request = reflection_pb2.ServerReflectionRequest


@pytest.fixture(params=[GrpcServer, Http2Server])
def server(request: pytest.FixtureRequest) -> Iterator[Served]:
    import grpc_health.v1.health_pb2  # noqa: F401 - as the server does

    port = free_port()
    server = request.param(reflection_methods(SERVED, [profiler.descriptor()]), Options(port=port))
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    yield server, channel
    channel.close()
    server.stop(0)


def talk(channel: grpc.Channel, service: str, requests: Any) -> Any:
    return channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(requests, timeout=60)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_listed_in_both_versions(server: Served, service: str) -> None:
    (answer,) = talk(server[1], service, iter([Request(list_services="")]))
    names = [found.name for found in answer.list_services_response.service]
    assert names == sorted([*SERVED, *SERVICES])


@pytest.mark.parametrize("service", [*SERVED, *SERVICES])
def test_a_client_can_build_every_service_from_what_it_is_told(server: Served, service: str) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(server[1]))  # type: ignore[no-untyped-call,arg-type,unused-ignore]
    found: Any = pool.FindServiceByName(service)
    assert found.methods
    for method in found.methods:
        assert method.input_type.full_name.startswith(service.rpartition(".")[0])
    if service == "tensorflow.serving.PredictionService":
        fields = found.methods_by_name["Predict"].input_type.fields_by_name
        assert fields["inputs"].message_type.fields_by_name["value"].message_type.name == "TensorProto"


def test_one_stream_answers_many_questions_and_unknown_names(
    server: Served,
) -> None:
    requests = [
        Request(file_containing_symbol="tensorflow.serving.PredictRequest"),
        Request(file_containing_symbol="tensorflow.serving.Nope"),
        Request(),
        Request(file_by_filename="tensorflow/core/framework/tensor.proto"),
    ]
    first, second, third, fourth = talk(server[1], SERVICES[0], iter(requests))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data).name
        for data in first.file_descriptor_response.file_descriptor_proto
    ]
    assert "tensorflow_serving/apis/predict.proto" in files
    assert second.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert third.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert fourth.file_descriptor_response.file_descriptor_proto


def test_an_open_stream_does_not_hold_up_the_stop(
    server: Served,
) -> None:
    done = threading.Event()

    def requests() -> Iterator[Any]:
        yield Request(list_services="")
        done.wait(60)

    try:
        answers = talk(server[1], SERVICES[0], requests())
        assert next(answers).list_services_response.service
        stopping = threading.Thread(target=server[0].stop, args=(3600,), daemon=True)
        stopping.start()
        stopping.join(30)
        assert not stopping.is_alive()
    finally:
        done.set()
