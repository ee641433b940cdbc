"""Puts a model's versions into an S3 store: upload.py DIRECTORY BUCKET/PREFIX. Waits for the store."""

import os
import sys
import time
from pathlib import Path

import botocore.exceptions
import s3fs

ATTEMPTS = 60


def upload(directory: Path, target: str) -> int:
    """Uploads every version that the store does not have, saved_model.pb last; how many those were."""
    store = s3fs.S3FileSystem(endpoint_url=f"http://{os.environ['S3_ENDPOINT']}")
    bucket = target.partition("/")[0]
    if not store.exists(bucket):
        store.mkdir(bucket)
    versions = 0
    for version in sorted(path for path in directory.iterdir() if path.name.isdigit()):
        if store.exists(f"{target}/{version.name}/saved_model.pb"):
            continue
        files = (path for path in version.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: (path.name == "saved_model.pb", path)):
            store.put_file(str(file), f"{target}/{file.relative_to(directory).as_posix()}")
        versions += 1
    return versions


def main() -> None:
    """Tries until the store answers."""
    for attempt in range(ATTEMPTS):
        try:
            print(f"{upload(Path(sys.argv[1]), sys.argv[2])} versions uploaded", flush=True)
        except (OSError, botocore.exceptions.BotoCoreError) as error:
            if attempt == ATTEMPTS - 1:
                sys.exit(f"the store does not answer: {error}")
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main()
