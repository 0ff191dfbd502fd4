# The receiver as a container: serves on port 8080 as a user without rights, and keeps everything in /data.
#
#     docker build --tag upscale-receiver .
#
# deploy/README.md says how to run it. Not by `docker run --env-file`, which keeps the quotes that stand in a .env.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/receiver
WORKDIR /src
# The dependencies first: they change less often than the code, and their layer is kept.
COPY requirements.lock ./
RUN /opt/receiver/bin/pip install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY receiver ./receiver
RUN /opt/receiver/bin/pip install --no-deps . \
    && /opt/receiver/bin/pip check \
    && /opt/receiver/bin/python -m compileall -q /opt/receiver/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="upscale-receiver" \
      org.opencontainers.image.description="Fetches each image that Ximilar's Upscaler announces, and proves it archived." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# tini is process 1: it passes signals on, and buries the decoding processes whose parent was killed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "tini=0.19.*" \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 receiver \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin receiver \
    && install --directory --owner=receiver --group=receiver --mode=0700 /data
COPY --from=build /opt/receiver /opt/receiver

ENV PATH=/opt/receiver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RECEIVER_CONTAINER=1 \
    RECEIVER_DATA_DIR=/data \
    RECEIVER_HOST=0.0.0.0 \
    RECEIVER_LOG=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('RECEIVER_PORT') or 8080}/healthz\", timeout=4)"]
ENTRYPOINT ["tini", "--", "receiver"]
CMD ["serve"]
