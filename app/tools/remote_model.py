"""A model of a running server, any with TensorFlow Serving's API, looked at through its metadata."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from app.errors import Code, ServingError, invalid_argument
from app.tools.described import Described, Target, signatures_of
from app.tools.example import Example

_ADDRESS = re.compile(r"(https?://|grpc://)?[\w.-]+:[0-9]+(/.*)?\Z|https?://[^/]+(/.*)?\Z")
_MODEL_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]+))?(?:/metadata)?/?\Z")
_SERVICE = "/tensorflow.serving.PredictionService/"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Address:
    """A server, and perhaps one of its models.

    Attributes:
        host: HOST or HOST:PORT.
        protocol: `http`, `https`, `grpc`, or empty if that has to be found out.
        model: empty if not said.
        version: None if not said.
    """

    host: str
    protocol: str = ""
    model: str = ""
    version: int | None = None


def is_address(text: str) -> bool:
    """Whether `text` looks like a server's address."""
    return bool(_ADDRESS.match(text))


def parse_address(text: str) -> Address:
    """Read HOST:PORT, `grpc://HOST:PORT`, `http://HOST:PORT` or a model's URL; else INVALID_ARGUMENT."""
    if not is_address(text):
        raise invalid_argument(
            f"`{text}` is no address: write HOST:PORT, grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME."
        )
    parts = urlsplit(text if "://" in text else f"//{text}")
    path = _MODEL_PATH.match(parts.path)
    if path is None and parts.path not in ("", "/", "/v1/models", "/v1/models/"):
        raise invalid_argument(f"`{text}`: the path has to be /v1/models/NAME or /v1/models/NAME/versions/N.")
    version = int(path.group(2)) if path is not None and path.group(2) else None
    return Address(parts.netloc, parts.scheme, unquote(path.group(1)) if path else "", version)


class RestModel:
    """A model that is asked over REST. See `Target`."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Ask at `address`, waiting `timeout` seconds at most for each answer."""
        self._address = address
        self._timeout = timeout
        path = f"/v1/models/{quote(address.model, safe='')}"
        self.path = path if address.version is None else f"{path}/versions/{address.version}"

    def describe(self) -> Described:
        """What the metadata says."""
        status, body = request(self._address, "GET", f"{self.path}/metadata", None, self._timeout)
        if status != http.client.OK:
            raise ServingError(Code.NOT_FOUND, f"{self._address.host}{self.path}: {_error_of(status, body)}")
        try:
            document = json.loads(body)
            definitions = get_model_metadata_pb2.SignatureDefMap()
            signature_def = document["metadata"]["signature_def"]
            json_format.ParseDict(signature_def, definitions, ignore_unknown_fields=True)
            version = int(document["model_spec"]["version"])
        except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
            raise ServingError(
                Code.INTERNAL, f"{self._address.host}{self.path}/metadata is no metadata: {error!r}"
            ) from error
        scheme = self._address.protocol or "http"
        return Described(
            source=f"{scheme}://{self._address.host}",
            model=self._address.model,
            version=version,
            signatures=_callable(definitions),
            rest_url=f"{scheme}://{self._address.host}{self.path}",
        )

    def ask(self, example: Example) -> str:
        """Post `example`."""
        if obstacle := example.rest_obstacle():
            return obstacle
        body = json.dumps(example.rest_body()).encode()
        status, answer = request(self._address, "POST", f"{self.path}:{example.method}", body, self._timeout)
        return "" if status == http.client.OK else _error_of(status, answer)


class GrpcModel:
    """A model that is asked over gRPC. See `Target`."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Ask at `address`, waiting `timeout` seconds at most for each answer."""
        self._address = address
        self._timeout = timeout

    def describe(self) -> Described:
        """What GetModelMetadata says."""
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = self._address.model
        if self._address.version is not None:
            asked.model_spec.version.value = self._address.version
        answer = get_model_metadata_pb2.GetModelMetadataResponse.FromString(
            self._call("GetModelMetadata", asked.SerializeToString())
        )
        definitions = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definitions)
        return Described(
            source=f"grpc://{self._address.host}",
            model=self._address.model,
            version=answer.model_spec.version.value,
            signatures=_callable(definitions),
            grpc_address=self._address.host,
        )

    def ask(self, example: Example) -> str:
        """Send `example`."""
        message = example.message(self._address.model, self._address.version)
        try:
            self._call(example.method.capitalize(), message.SerializeToString())
        except ServingError as error:
            return str(error)
        return ""

    def _call(self, method: str, message: bytes) -> bytes:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(self._address.host, options) as channel:
            call: Any = channel.unary_unary(_SERVICE + method, None, None)
            try:
                return bytes(call(message, timeout=self._timeout))
            except grpc.RpcError as error:
                failure: Any = error  # a Call, which its type does not say
                code = Code[failure.code().name]
                raise ServingError(code, f"{self._address.host}: {failure.details()}") from None


def remote_models(text: str, model: str = "", protocol: str = "", timeout: float = 10.0) -> list[Target]:
    """The models at an address: the one that it, or `model`, names, else all that the server lists.

    Args:
        text: see `parse_address`.
        model: a name, if the address has none.
        protocol: `rest` or `grpc`; found out if empty.
        timeout: for each answer, in seconds.

    Raises:
        ServingError: nobody answers there, or no model is named and the server does not list them.
    """
    given = parse_address(text)
    scheme = given.protocol or {"rest": "http", "grpc": "grpc"}.get(protocol) or _find_out(given, timeout)
    name = given.model or model
    address = Address(given.host, scheme, name, given.version)
    names = [name] if name else _listed(address, timeout)
    kind = GrpcModel if scheme == "grpc" else RestModel
    return [kind(Address(given.host, scheme, name, given.version), timeout) for name in names]


def _find_out(address: Address, timeout: float) -> str:
    """What speaks behind a bare HOST:PORT: a gRPC port does not answer HTTP/1.1."""
    try:
        request(address, "GET", "/v1/models", None, timeout)
    except ServingError as error:
        if error.code is Code.UNAVAILABLE:
            raise
        return "grpc"
    return "http"


def _listed(address: Address, timeout: float) -> list[str]:
    if address.protocol != "grpc":
        status, body = request(address, "GET", "/v1/models", None, timeout)
        if status == http.client.OK:
            return [str(entry["name"]) for entry in json.loads(body)["models"]]
    raise invalid_argument(f"{address.host} does not list its models: name one with --model.")


def request(
    address: Address, method: str, path: str, body: bytes | None, timeout: float
) -> tuple[int, bytes]:
    """One HTTP request of its own; status and body.

    Raises:
        ServingError: UNAVAILABLE if nobody listens or answers in time, UNKNOWN if what answers is not HTTP.
    """
    https = address.protocol == "https"
    kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = kind(address.host, timeout=timeout)
    try:
        connection.connect()
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
    except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
        raise ServingError(Code.UNKNOWN, f"{address.host} does not speak HTTP: {error!r}") from None
    except OSError as error:
        raise ServingError(
            Code.UNAVAILABLE, f"{address.host} does not answer: {error}. Is the server up, the port right?"
        ) from None
    finally:
        connection.close()


def _error_of(status: int, body: bytes) -> str:
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode(errors="replace")
    return f"HTTP {status}: {text}"


def _callable(definitions: Any) -> dict[str, Any]:
    found = signatures_of(definitions.signature_def)
    return {name: signature for name, signature in found.items() if signature.is_callable}
