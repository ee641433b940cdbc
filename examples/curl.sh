#!/usr/bin/env bash
# half_plus_two with nothing but curl:
#
#     HOST=localhost PORT=8501 examples/curl.sh
set -euo pipefail

model="http://${HOST:-localhost}:${PORT:-8501}/v1/models/half_plus_two"

ask() {
    echo "# $1"
    shift
    curl --fail-with-body --silent --show-error "$@"
    echo
}

ask "predict, one row for each instance" --data '{"instances": [1.0, 2.0, 5.0]}' "$model:predict"
ask "predict, one column for each input" --data '{"inputs": {"x": [1.0, 2.0, 5.0]}}' "$model:predict"
ask "status" "$model"
ask "metadata" "$model/metadata"
