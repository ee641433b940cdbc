# Ferry for CPUs. Needs BuildKit: DOCKER_BUILDKIT=1 docker build -t ferry .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# ---- dependencies, as locked ----
# What goes into the image is made below /tree: of a tree that is copied as a whole the directories, too, keep
# their times.
FROM ${BASE_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python -m venv --without-pip /tree/opt/ferry
ARG TARGETARCH
COPY requirements/image.${TARGETARCH}.lock /tmp/locked
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /tree/opt/ferry/bin/python install --no-deps --require-hashes --no-compile --only-binary :all: \
        --report /tmp/installed.json -r /tmp/locked

# ---- the same without what serving never touches ----
FROM dependencies AS pruned
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null
COPY scripts/image-prune scripts/image-settle /tmp/
RUN sh /tmp/image-prune /tree/opt/ferry && sh /tmp/image-settle /tree

# ---- Ferry itself ----
FROM dependencies AS ferry
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY entrypoint entrypoint
COPY scripts/image-settle /tmp/
# Modes do not depend on the checkout's umask.
RUN umask 022 && mkdir -p /ferry/models && chmod -R u=rwX,go=rX . \
    && pip --python /tree/opt/ferry/bin/python install --no-deps --no-build-isolation --no-index --no-compile --quiet \
        --target /ferry/opt/ferry/lib/python3.11/site-packages . \
    && rm -r /ferry/opt/ferry/lib/python3.11/site-packages/bin \
    && install -D -m 0755 -t /ferry/usr/bin entrypoint/tensorflow_model_server entrypoint/ferry \
        entrypoint/tf_serving_entrypoint.sh \
    && sh /tmp/image-settle /ferry

# ---- what is served: dependencies in one layer, Ferry in a small one above it ----
FROM ${BASE_IMAGE} AS content
COPY --from=pruned /tree /
COPY --from=ferry /ferry /

# ---- what that consists of, and its licences ----
FROM ${BASE_IMAGE} AS sbom-tool
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/sbom.lock /tmp/sbom.lock
RUN --mount=type=cache,target=/root/.cache/pip python -m venv --without-pip /opt/sbom \
    && pip --python /opt/sbom/bin/python install --no-deps --require-hashes --only-binary :all: -r /tmp/sbom.lock

FROM content AS sbom
COPY scripts/image-settle scripts/image_sbom.py /tmp/
ARG TARGETARCH
# The commit's, in seconds since 1970: the document says when that was.
ARG SOURCE_DATE_EPOCH=315532800
RUN --mount=from=sbom-tool,source=/opt/sbom,target=/opt/sbom \
    --mount=from=dependencies,source=/tmp/installed.json,target=/tmp/installed.json \
    umask 022 && /opt/sbom/bin/python /tmp/image_sbom.py --python /opt/ferry/bin/python --arch "$TARGETARCH" \
        --installed /tmp/installed.json --out /docs/usr/share/doc/ferry \
    && sh /tmp/image-settle /docs

# ---- the image ----
FROM content
COPY --from=sbom /docs /

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

ARG BASE_IMAGE
ARG BASE_DIGEST=unknown
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
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      ferry.sbom="/usr/share/doc/ferry/sbom.cdx.json" \
      ferry.licenses="/usr/share/doc/ferry/licenses.txt"
