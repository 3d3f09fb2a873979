# Two images: one for all programs of the stack, and one for the proxies of the profiles pooler and scale.
# compose.yaml defines the command of each container.
# compose.yaml repeats the default tag of PYTHON_IMAGE; `make pin-images` adds the digest there.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build

WORKDIR /source
RUN python -m venv --without-pip /opt/echo-markets
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# the locked dependencies come first: this layer is slow to build and changes rarely
COPY requirements.lock requirements-local.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/echo-markets install --require-hashes --requirement requirements.lock \
    && awk '/^setuptools==/ { found = 1 } found { print } found && !/\\$/ { exit }' \
        requirements-local.lock > build.lock \
    && pip install --require-hashes --requirement build.lock

COPY . ./
ARG REVISION=unknown
RUN python -c "from setuptools import build_meta; build_meta.build_wheel('/wheel')" \
    && pip --python /opt/echo-markets install --no-deps --no-index /wheel/*.whl \
    && cd /opt/echo-markets/lib/python3*/site-packages && echo "$REVISION" > REVISION

# PgBouncer and HAProxy, from the packages of Debian
FROM ${PYTHON_IMAGE} AS proxies

RUN apt-get update \
    && apt-get install --yes --no-install-recommends haproxy pgbouncer postgresql-client \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY core/stack/probe.py ./
USER 10001:10001

# the image that runs: without the sources, pip's cache and build tools
FROM ${PYTHON_IMAGE}

ENV PATH=/opt/echo-markets/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
# a volume that is mounted here inherits the owner of this folder
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/echo-markets/metrics
# a single file, outside of the package: an import of the package takes a second
COPY core/stack/probe.py ./
COPY --from=build /opt/echo-markets /opt/echo-markets

# a numeric id, so that an orchestrator can verify that the user is not root
USER 10001:10001
CMD ["echo-markets", "--help"]
