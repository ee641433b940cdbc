from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.python.framework.errors_impl import exception_type_from_error_code

from app.engine.status import tensorflow_errors
from app.errors import Code, ServingError


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_of_tensorflow_has_its_own(code: Code) -> None:
    error = exception_type_from_error_code(int(code))(None, None, "what happened")
    with pytest.raises(ServingError) as raised, tensorflow_errors():
        raise error
    assert (raised.value.code, raised.value.message) == (code, "what happened")
    assert raised.value.__cause__ is error


def test_a_real_error_keeps_its_text() -> None:
    with pytest.raises(ServingError) as raised, tensorflow_errors():
        tf.io.gfile.GFile("/no/such/file").read()
    assert raised.value.code is Code.NOT_FOUND
    assert raised.value.message == "/no/such/file; No such file or directory"


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), tensorflow_errors():
        raise KeyError("mine")
