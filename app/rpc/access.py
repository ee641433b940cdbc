"""Which token a gRPC method needs."""

from __future__ import annotations

from app.config.auth_tokens import Group
from app.errors import ServingError
from app.rpc import health, reflection
from app.security.guard import Guard

_PREDICTION = "/tensorflow.serving.PredictionService/"
_STATUS = (_PREDICTION + "GetModelMetadata", "/tensorflow.serving.ModelService/GetModelStatus")


def group_of(path: str) -> Group | None:
    """What a token must be good for to call `path`; None if none is needed.

    What is not known here is an administrator's.
    """
    service = path.split("/")[1] if "/" in path else path
    if service == health.SERVICE:  # load balancers and orchestrators have no token
        return None
    if path in _STATUS or service in reflection.SERVICES:
        return Group.STATUS
    if path.startswith(_PREDICTION):
        return Group.PREDICT
    return Group.ADMIN


class Access:
    """Refuses calls by their metadata, before a message is read."""

    def __init__(self, guard: Guard) -> None:
        """Ask `guard` about every call."""
        self._guard = guard

    def refusal(self, path: str, authorization: str, api_key: str) -> ServingError | None:
        """Why a call is refused, as `Guard.refusal`; None if it is not.

        Args:
            path: of a method that is served.
            authorization: of the metadata, empty if there is none.
            api_key: `x-api-key` of the metadata, empty if there is none.
        """
        group = group_of(path)
        return None if group is None else self._guard.refusal(group, authorization, api_key)
