# The receiver as a container: serves on port 8080 as a user without rights, and keeps everything in /data.
#
#     docker build --tag upscale-receiver --build-arg REVISION="$(git rev-parse HEAD)" .
#
# docs/operations/deploy.md says how to run it. Not by `docker run --env-file`, which keeps the quotes that stand in a .env.
#
# Which SQLite: Debian's is 3.40.1, and one from 3.51.3 on is free of the WAL-reset fault. No Debian release has
# that yet, and a package of its testing branch is not kept for a later build. So the ledger brings its own: the
# wheel of pysqlite3, locked like every other one. It exists for x86-64; on other machines `serve` warns.

# Debian with its own Python, which gets its security fixes as long as Debian 12 does, and is smaller than the
# usual image of Python. It is named by date and digest; what is ours is locked by hash. For a newer one, which has
# Debian's fixes of the meantime:
#
#     docker buildx imagetools inspect debian:bookworm-slim
#     docker build --build-arg BASE_IMAGE=debian:bookworm-slim@sha256:... .
ARG BASE_IMAGE=debian:bookworm-20261005-slim@sha256:7c7b2c966bc9ee8cedfeef67e0e279108992c77681fa595db4a9d65c06ccc587

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "binutils=2.40-*" "python3-venv=3.11.*" \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv /opt/receiver
WORKDIR /src
# The dependencies first: they change less often than the code, and their layer is kept.
# With requirements-alerts.lock the image can send alerts, and is 25 MB larger.
ARG LOCK=requirements.lock
COPY requirements.lock requirements-alerts.lock requirements-build.lock ./
RUN /opt/receiver/bin/pip install --require-hashes --only-binary :all: \
        --requirement "${LOCK}" --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY receiver ./receiver
# Then out goes what is never used: the models of 400 other services of Amazon's (what credentials are made of
# stays), debugging symbols, and what installed it all. A wheel whose libraries were rewritten for it
# (pillow.libs) is left alone by strip.
# Compiled files stay, for the root is read-only and nothing could write them later, and every start would compile all
# of it again; but for what colours source code of hundreds of languages. They are found by their hash and not by a time, so
# that equal sources make equal layers.
RUN /opt/receiver/bin/pip install --no-deps --no-build-isolation --no-index . \
    && /opt/receiver/bin/pip check \
    && site="$(/opt/receiver/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d \
        -not -name s3 -not -name sts -not -name sso -not -name sso-oidc -not -name signin -exec rm -r {} + \
    && find "$site/boto3/data" -mindepth 1 -maxdepth 1 -type d -not -name s3 -exec rm -r {} + \
    && rm -r "$site/boto3/examples" \
    && find "$site" -name '*.so' -not -path '*.libs/*' -exec strip --strip-unneeded {} + \
    && /opt/receiver/bin/pip uninstall --quiet --yes setuptools pip \
    && find "$site" -depth -name __pycache__ -exec rm -r {} + \
    && /opt/receiver/bin/python -m compileall -q -x 'pygments/(lexers|styles)/' --invalidation-mode unchecked-hash "$site"

FROM ${BASE_IMAGE}
# tini is process 1: it passes signals on, and buries the decoding processes whose parent was killed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "ca-certificates=20*" "python3=3.11.*" "tini=0.19.*" \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
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

# Last, because these change with every build, and no layer after them is made anew.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="upscale-receiver" \
      org.opencontainers.image.description="Fetches each image that an upscaling service announces, and proves it archived." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
