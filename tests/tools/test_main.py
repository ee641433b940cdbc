from __future__ import annotations

import subprocess
import sys

from app import __version__
from app.tools.messages import without_tensorflow
from tests.support.process import REPOSITORY
from tests.tools.conftest import ferry, run_ferry


def test_help_is_quick() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "app.tools", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"tensorflow", "numpy", "grpc", "rich"}.isdisjoint(modules)
    for command_name in ("bench", "check", "export", "inspect", "serve"):
        assert f"\n  {command_name} " in done.stdout
    assert ferry("--version") == f"ferry, version {__version__}\n"


def test_serve_is_the_server_and_needs_no_tool() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "app.tools", "serve", "--version"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"TensorFlow ModelServer: {__version__}")
    assert "| click" not in done.stderr
    help_text = run_ferry("serve", "--help")
    assert (help_text.returncode, help_text.stdout.splitlines()[0]) == (255, "usage: ferry serve")


def test_wrong_use_ends_with_2() -> None:
    for arguments in (("nonsense",), ("inspect",), ("bench",), ("inspect", "x", "--protocol", "udp")):
        assert run_ferry(*arguments).returncode == 2


def test_tensorflow_can_be_imported_after_its_messages() -> None:
    program = (
        "import sys\n"
        "from app.tools.messages import without_tensorflow\n"
        "with without_tensorflow():\n"
        "    from tensorflow.core.protobuf import saved_model_pb2 as first\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import tensorflow as tf\n"
        "from tensorflow.core.protobuf import saved_model_pb2 as second\n"
        "assert first is second\n"
        "assert tf.make_tensor_proto([1.0]).dtype == 1\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=REPOSITORY, check=True, timeout=120)


def test_messages_change_nothing_where_tensorflow_is_there() -> None:
    import tensorflow as tf

    with without_tensorflow():
        import tensorflow as inside
    assert inside is tf
