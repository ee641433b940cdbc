"""`BatchingParameters` of TensorFlow Serving: how requests are batched, read from text and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from app.config import text_proto
from app.cpus import usable_cpus
from app.errors import invalid_argument

# The client package of TensorFlow Serving does not hold this message.
_FILE = """
    name: "tensorflow_serving/servables/tensorflow/session_bundle_config.proto" package: "tensorflow.serving"
    syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
    message_type { name: "BatchingParameters" }
"""
_INT64 = ".google.protobuf.Int64Value"
_WRAPPED = {
    "max_batch_size": (1, _INT64),
    "batch_timeout_micros": (2, _INT64),
    "max_enqueued_batches": (3, _INT64),
    "num_batch_threads": (4, _INT64),
    "thread_pool_name": (5, ".google.protobuf.StringValue"),
    "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
    "max_execution_batch_size": (9, _INT64),
}


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched. Names and defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: the most rows of a request, and of a batch unless large ones are split.
        batch_timeout_micros: how long a batch that is not full waits for more rows.
        max_enqueued_batches: the most batches that wait in one queue.
        num_batch_threads: batches that run at a time, in the whole server.
        thread_pool_name: what the threads are called.
        allowed_batch_sizes: sizes to which batches are padded, ascending; any size when empty.
        pad_variable_length_inputs: pad dimensions other than the first to the largest of the batch.
        enable_large_batch_splitting: cut requests that do not fit into a batch.
        max_execution_batch_size: the most rows of a batch when large ones are split.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=usable_cpus)
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000

    @property
    def batch_limit(self) -> int:
        """The most rows of a batch."""
        return self.max_execution_batch_size if self.enable_large_batch_splitting else self.max_batch_size

    def check_pool(self) -> None:
        """Refuse a pool without threads: INVALID_ARGUMENT."""
        if self.num_batch_threads < 1:
            raise invalid_argument(f"num_batch_threads must be positive; was {self.num_batch_threads}")

    def check_queues(self) -> None:
        """Refuse what queues cannot work with.

        Raises:
            ServingError: INVALID_ARGUMENT, in TensorFlow Serving's words where it has any.
        """
        splits = self.enable_large_batch_splitting
        if self.allowed_batch_sizes and self.allowed_batch_sizes[-1] != self.max_batch_size:
            raise invalid_argument(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{self.allowed_batch_sizes[-1]}; expected {self.max_batch_size}"
            )
        if self.max_batch_size < 1:
            raise invalid_argument(f"input_batch_size_limit must be positive; was {self.max_batch_size}")
        if self.batch_timeout_micros < 0:
            raise invalid_argument(
                f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}"
            )
        if self.max_enqueued_batches < splits:  # without splitting 0 means 1
            raise invalid_argument(f"max_enqueued_batches must be positive; was {self.max_enqueued_batches}")
        if splits and self.max_execution_batch_size < 1:
            raise invalid_argument(
                f"max_execution_batch_size must be positive; was {self.max_execution_batch_size}"
            )
        if splits and self.max_batch_size < self.max_execution_batch_size:
            raise invalid_argument(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or "
                f"equal to max_execution_batch_size. max_batch_size was {self.max_batch_size}; "
                f"max_execution_batch_size was {self.max_execution_batch_size}"
            )


def read_file(path: str) -> BatchingParameters:
    """What the file at `path`, a text `BatchingParameters`, says. Its values are not checked.

    Raises:
        ServingError: those of `text_proto.read`.
    """
    proto = text_proto.read(path, _batching_parameters())
    values = {name: getattr(proto, name).value for name in _WRAPPED if proto.HasField(name)}
    defaults = BatchingParameters()
    values.setdefault("max_execution_batch_size", values.get("max_batch_size", defaults.max_batch_size))
    return BatchingParameters(
        **values,
        allowed_batch_sizes=tuple(proto.allowed_batch_sizes),
        pad_variable_length_inputs=proto.pad_variable_length_inputs,
    )


def _batching_parameters() -> Any:
    """An empty BatchingParameters, from a pool of its own: other packages may bring the message too."""
    types = descriptor_pb2.FieldDescriptorProto
    file = text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto())
    fields = file.message_type[0].field
    for name, (number, type_name) in _WRAPPED.items():
        optional = types.LABEL_OPTIONAL
        fields.add(name=name, number=number, type=types.TYPE_MESSAGE, label=optional, type_name=type_name)
    fields.add(name="allowed_batch_sizes", number=6, type=types.TYPE_INT64, label=types.LABEL_REPEATED)
    fields.add(name="pad_variable_length_inputs", number=7, type=types.TYPE_BOOL, label=types.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    message = pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    return message_factory.GetMessageClass(message)()
