# Ferry for CPUs. Needs BuildKit: DOCKER_BUILDKIT=1 docker build -t ferry .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# ---- dependencies, as locked ----
FROM ${BASE_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python -m venv --without-pip /opt/ferry
COPY requirements/image.lock /tmp/image.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/ferry/bin/python install --no-deps --require-hashes --no-compile -r /tmp/image.lock

# ---- the same without what serving never touches ----
FROM dependencies AS pruned
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null
COPY scripts/image-prune /tmp/image-prune
RUN sh /tmp/image-prune /opt/ferry/lib/python3.11/site-packages \
    # The commands of the dependencies; the server needs none of them.
    && find /opt/ferry/bin -mindepth 1 ! -name 'python*' -delete
# Unchecked: files in an image do not change, so there is nothing to compare at each start.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ferry/lib

# ---- Ferry itself ----
FROM dependencies AS ferry
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN pip --python /opt/ferry/bin/python install --no-deps --no-build-isolation --no-index --no-compile --quiet \
        --target /tree/opt/ferry/lib/python3.11/site-packages . \
    && rm -r /tree/opt/ferry/lib/python3.11/site-packages/bin \
    # The paths recorded in the byte code are those of the image.
    && python -m compileall -q --invalidation-mode unchecked-hash -s /tree /tree
COPY entrypoint /tmp/entrypoint
# Modes do not depend on the checkout's umask.
RUN install -D -m 0755 -t /tree/usr/bin /tmp/entrypoint/tensorflow_model_server /tmp/entrypoint/ferry \
        /tmp/entrypoint/tf_serving_entrypoint.sh

# ---- the image: dependencies in one layer, Ferry in small ones above it ----
FROM ${BASE_IMAGE}
COPY --from=pruned /opt/ferry /opt/ferry
RUN mkdir -p /models
COPY --from=ferry /tree/opt/ferry /opt/ferry
COPY --from=ferry /tree/usr/bin /usr/bin

ENV MODEL_BASE_PATH=/models \
    MODEL_NAME=model \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
EXPOSE 8500 8501
# No account of this number is needed, and any other works: the server owns no file. Group 0 is what
# platforms that choose a random user keep.
USER 1000:0
STOPSIGNAL SIGTERM
# Failures count only after the start period, for a large model may take minutes to load; the first
# success ends it.
HEALTHCHECK --interval=10s --timeout=10s --start-period=10m --retries=3 \
    CMD ["/usr/bin/tensorflow_model_server", "healthcheck"]
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Ferry" \
      org.opencontainers.image.description="A model server with TensorFlow Serving's interfaces" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
