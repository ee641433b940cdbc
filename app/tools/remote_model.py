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
from app.tools.access import OPEN, Access
from app.tools.described import Described, Target, signatures_of
from app.tools.example import Example

_ADDRESS = re.compile(r"(https?://|grpcs?://)?[\w.-]+:[0-9]+(/.*)?\Z|https?://[^/]+(/.*)?\Z")
_MODEL_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]+))?(?:/metadata)?/?\Z")
_SERVICE = "/tensorflow.serving.PredictionService/"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Address:
    """A server, and perhaps one of its models.

    Attributes:
        host: HOST or HOST:PORT.
        protocol: `http`, `https`, `grpc`, `grpcs`, or empty if that has to be found out.
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
    """Read HOST:PORT, `grpc://HOST:PORT`, `http://HOST:PORT` or a model's URL; else INVALID_ARGUMENT.

    With TLS these are `grpcs://` and `https://`.
    """
    if not is_address(text):
        raise invalid_argument(
            f"`{text}` is no address: write HOST:PORT, grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME, "
            "with TLS grpcs:// or https://."
        )
    parts = urlsplit(text if "://" in text else f"//{text}")
    path = _MODEL_PATH.match(parts.path)
    if path is None and parts.path not in ("", "/", "/v1/models", "/v1/models/"):
        raise invalid_argument(f"`{text}`: the path has to be /v1/models/NAME or /v1/models/NAME/versions/N.")
    version = int(path.group(2)) if path is not None and path.group(2) else None
    return Address(parts.netloc, parts.scheme, unquote(path.group(1)) if path else "", version)


class RestModel:
    """A model that is asked over REST. See `Target`."""

    def __init__(self, address: Address, timeout: float, access: Access = OPEN) -> None:
        """Ask at `address`, waiting `timeout` seconds at most for each answer."""
        self._address = address
        self._timeout = timeout
        self._access = access
        path = f"/v1/models/{quote(address.model, safe='')}"
        self.path = path if address.version is None else f"{path}/versions/{address.version}"

    def describe(self) -> Described:
        """What the metadata says."""
        status, body = self._request("GET", f"{self.path}/metadata")
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
        status, answer = self._request("POST", f"{self.path}:{example.method}", body)
        return "" if status == http.client.OK else _error_of(status, answer)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        return request(self._address, method, path, body, timeout=self._timeout, access=self._access)


class GrpcModel:
    """A model that is asked over gRPC. See `Target`."""

    def __init__(self, address: Address, timeout: float, access: Access = OPEN) -> None:
        """Ask at `address`, waiting `timeout` seconds at most for each answer."""
        self._address = address
        self._timeout = timeout
        self._access = access
        self._scheme = address.protocol or "grpc"

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
            source=f"{self._scheme}://{self._address.host}",
            model=self._address.model,
            version=answer.model_spec.version.value,
            signatures=_callable(definitions),
            grpc_address=f"{self._scheme}://{self._address.host}",
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
        with self._channel() as channel:
            call: Any = channel.unary_unary(_SERVICE + method, None, None)
            try:
                metadata = list(self._access.headers().items())
                return bytes(call(message, timeout=self._timeout, metadata=metadata))
            except grpc.RpcError as error:
                failure: Any = error  # a Call, which its type does not say
                code, text = Code[failure.code().name], f"{self._address.host}: {failure.details()}"
                if code is Code.UNAVAILABLE and self._scheme == "grpc":
                    text += " If it has TLS, write grpcs:// before the address."
                raise ServingError(code, text) from None

    def _channel(self) -> grpc.Channel:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if self._scheme == "grpcs":
            return grpc.secure_channel(self._address.host, self._access.credentials(), options)
        return grpc.insecure_channel(self._address.host, options)


def remote_models(
    text: str, model: str = "", protocol: str = "", timeout: float = 10.0, access: Access = OPEN
) -> list[Target]:
    """The models at an address: the one that it, or `model`, names, else all that the server lists.

    Args:
        text: see `parse_address`.
        model: a name, if the address has none.
        protocol: `rest` or `grpc`; found out if empty.
        timeout: for each answer, in seconds.
        access: what the server wants to see.

    Raises:
        ServingError: nobody answers there, or no model is named and the server does not list them.
    """
    given = parse_address(text)
    scheme = given.protocol or {"rest": "http", "grpc": "grpc"}.get(protocol) or _find_out(given, timeout)
    name = given.model or model
    address = Address(given.host, scheme, name, given.version)
    names = [name] if name else _listed(address, timeout, access)
    kind = GrpcModel if scheme.startswith("grpc") else RestModel
    return [kind(Address(given.host, scheme, name, given.version), timeout, access) for name in names]


def _find_out(address: Address, timeout: float) -> str:
    """What speaks behind a bare HOST:PORT: a gRPC port does not answer HTTP/1.1."""
    try:
        request(address, "GET", "/v1/models", timeout=timeout)
    except ServingError as error:
        if error.code is Code.UNAVAILABLE:
            raise
        return "grpc"
    return "http"


def _listed(address: Address, timeout: float, access: Access) -> list[str]:
    if not address.protocol.startswith("grpc"):
        status, body = request(address, "GET", "/v1/models", timeout=timeout, access=access)
        if status == http.client.OK:
            return [str(entry["name"]) for entry in json.loads(body)["models"]]
    raise invalid_argument(f"{address.host} does not list its models: name one with --model.")


def request(
    address: Address,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    timeout: float,
    access: Access = OPEN,
) -> tuple[int, bytes]:
    """One HTTP request of its own; status and body.

    Raises:
        ServingError: UNAVAILABLE if nobody listens or answers in time, UNKNOWN if what answers is not HTTP.
    """
    connection: http.client.HTTPConnection
    if address.protocol == "https":
        context = access.context()
        connection = http.client.HTTPSConnection(address.host, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(address.host, timeout=timeout)
    headers = {"content-type": "application/json", **access.headers()}
    try:
        connection.connect()
        connection.request(method, path, body, headers)
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
