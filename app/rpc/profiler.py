"""tensorflow.ProfilerService, which TensorBoard and `tf.profiler.experimental.client` capture profiles with.

TensorFlow could serve it itself (`tf.profiler.experimental.server.start`), but only on a port of its own
that is open to every interface. So the service is written here, on TensorFlow's in-process profiler, and
answers on the server's gRPC port.
"""

from __future__ import annotations

import glob
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from app.errors import Code, ServingError
from app.rpc.method import Call, Method

logger = logging.getLogger(__name__)

SERVICE = "tensorflow.ProfilerService"

# TensorFlow's package lacks the Python messages of profiler_service.proto. These are the fields of them
# that matter here, by number and type; bytes stand for an XSpace, which looks the same on the wire.
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "ProfileOptions": {
        "duration_ms": (9, _Field.TYPE_UINT64),
        "override_hostname": (15, _Field.TYPE_STRING),
    },
    "ProfileRequest": {
        "opts": (4, _Field.TYPE_MESSAGE),
        "repository_root": (5, _Field.TYPE_STRING),
        "session_id": (6, _Field.TYPE_STRING),
        "host_name": (7, _Field.TYPE_STRING),
        "emit_xspace": (9, _Field.TYPE_BOOL),
    },
    "ProfileResponse": {"empty_trace": (7, _Field.TYPE_BOOL), "xspace": (8, _Field.TYPE_BYTES)},
    "TerminateRequest": {"session_id": (1, _Field.TYPE_STRING)},
    "TerminateResponse": {},
    "MonitorRequest": {},
    "MonitorResponse": {},
}


def descriptor() -> Any:
    """The FileDescriptorProto of the service, as far as it is known here."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorflow/profiler_service.proto", package="tensorflow", syntax="proto3"
    )
    for message, fields in _MESSAGES.items():
        proto = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = proto.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
            if kind == _Field.TYPE_MESSAGE:
                field.type_name = ".tensorflow.ProfileOptions"
    service = file.service.add(name="ProfilerService")
    for method in ("Profile", "Terminate", "Monitor"):
        service.method.add(
            name=method,
            input_type=f".tensorflow.{method}Request",
            output_type=f".tensorflow.{method}Response",
        )
    return file


def _message_classes() -> dict[str, type[Any]]:
    pool = descriptor_pool.DescriptorPool()  # its own, so that it cannot clash with TensorFlow's
    pool.Add(descriptor())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _message_classes()
ProfileRequest, ProfileResponse = _CLASSES["ProfileRequest"], _CLASSES["ProfileResponse"]
TerminateRequest = _CLASSES["TerminateRequest"]


class Profiler:
    """Profiles this process, once at a time: TensorFlow cannot do more."""

    def __init__(self) -> None:
        """Start nothing: without a request the profiler costs nothing."""
        self._lock = threading.Lock()
        self._session_id: str | None = None
        self._end = threading.Event()
        self._closed = False

    def methods(self) -> Mapping[str, Method]:
        """The methods of the service, by path."""
        service = f"/{SERVICE}/"
        return {
            service + "Profile": Method(ProfileRequest, self._profile, blocks=True),
            service + "Terminate": Method(TerminateRequest, self._terminate),
            service + "Monitor": Method(empty_pb2.Empty, _monitor),
        }

    def close(self) -> None:
        """End a running profile early: it is still written and answered."""
        with self._lock:
            self._closed = True
            self._end.set()

    def _profile(self, request: Any, call: Call) -> Any:
        self._enter(request.session_id)
        try:
            space = self._record(request.opts.duration_ms / 1000, call.deadline)
            response = ProfileResponse(empty_trace=_is_empty(space))
            if request.emit_xspace:
                response.xspace = space
            else:
                _save(request, space)
            return response
        except (tf.errors.OpError, OSError) as error:
            logger.exception("A profile could not be taken")
            text = error.message if isinstance(error, tf.errors.OpError) else str(error)
            raise ServingError(Code.INTERNAL, text) from error
        finally:
            with self._lock:
                self._session_id = None

    def _enter(self, session_id: str) -> None:
        with self._lock:
            if self._session_id is not None:
                raise ServingError(Code.INTERNAL, "Another profiling session active.")
            self._session_id = session_id
            if not self._closed:
                self._end.clear()

    def _record(self, seconds: float, deadline: float | None) -> bytes:
        """Profile for so long, or until the session is ended; the XSpace."""
        left = float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
        with tempfile.TemporaryDirectory(prefix="ferry-profile-") as directory:
            # Without options: TensorFlow 2.21 warns of each one and takes its default all the same.
            tf.profiler.experimental.start(directory)
            ended = self._end.wait(min(seconds, left, threading.TIMEOUT_MAX))
            in_time = ended or seconds < left
            tf.profiler.experimental.stop(save=in_time)
            if not in_time:
                raise ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
            (path,) = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
            with open(path, "rb") as file:
                return file.read()

    def _terminate(self, request: Any, call: Call) -> Any:
        del call
        with self._lock:
            if request.session_id == self._session_id:
                self._end.set()
        return empty_pb2.Empty()


def _monitor(request: Any, call: Call) -> Any:
    """TensorFlow's server has it for TPUs only; this is its answer elsewhere."""
    del request, call
    raise ServingError(Code.UNIMPLEMENTED, "unimplemented.")


def _is_empty(space: bytes) -> bool:
    """Whether nothing was recorded, upon which clients try again."""
    planes = xplane_pb2.XSpace.FromString(space).planes
    return not any(line.events for plane in planes for line in plane.lines)


def _save(request: Any, space: bytes) -> None:
    """Write the file where the client looks for it; like TensorFlow's server, wherever it says."""
    directory = os.path.join(request.repository_root, request.session_id)
    host = request.opts.override_hostname or request.host_name
    path = os.path.join(directory, host.replace(":", "_") + ".xplane.pb")
    tf.io.gfile.makedirs(directory)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(space)
    logger.info("Profile written to %s", path)
