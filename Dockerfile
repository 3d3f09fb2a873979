# One image for migrate, seed, simulator, dashboard and exporter; compose.yaml says which command each runs.
FROM python:3.13-slim AS build

WORKDIR /source
COPY requirements-local.lock ./
RUN awk '/^setuptools==/ { found = 1 } found { print } found && !/\\$/ { exit }' \
        requirements-local.lock > build.lock \
    && pip install --no-cache-dir --require-hashes --requirement build.lock
COPY . ./
RUN python -c "from setuptools import build_meta; build_meta.build_wheel('/wheel')"

FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /app

# the locked dependencies come first: this layer is slow to build and changes rarely
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

# the metrics folder is a volume, which inherits the owner of this folder
RUN groupadd --gid 10001 echo-markets \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent echo-markets \
    && install --directory --owner=echo-markets --group=echo-markets /var/lib/echo-markets/metrics

COPY --from=build /wheel /wheel
RUN pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
ARG REVISION=unknown
RUN echo "$REVISION" > "$(python -c 'from core.installation import ROOT; print(ROOT)')/REVISION"

USER echo-markets
CMD ["echo-markets", "--help"]
