"""Version labels: names that users give to versions, such as `stable` and `canary`."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import Code, ServingError, invalid_argument


class Labels:
    """Which version each label of each model means. Replaced as a whole, so readers need no lock."""

    def __init__(self) -> None:
        """No labels, and no configuration that could have given any."""
        self._by_model: Mapping[str, Mapping[str, int]] | None = None

    def replace(self, by_model: Mapping[str, Mapping[str, int]]) -> None:
        """Forget all labels and take these: version by label by model."""
        self._by_model = {model: dict(labels) for model, labels in by_model.items()}

    def of(self, model: str) -> Mapping[str, int]:
        """The labels of a model."""
        return (self._by_model or {}).get(model, {})

    def version(self, model: str, label: str) -> int:
        """The version that a label means.

        Raises:
            ServingError: INVALID_ARGUMENT for an unknown one; UNAVAILABLE while no configuration was
                ever applied.
        """
        if self._by_model is None:
            raise ServingError(Code.UNAVAILABLE, f"Model labels does not init yet.{label}")
        version = self.of(model).get(label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version
