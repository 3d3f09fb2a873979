# One image for migrate, seed, simulator, dashboard and exporter; compose.yaml says which command each runs.
FROM python:3.13-slim AS metadata

# the version that the exporter reports, as an installed package would have it
WORKDIR /app
COPY requirements-local.lock ./
RUN awk '/^setuptools==/ { found = 1 } found { print } found && !/\\$/ { exit }' \
        requirements-local.lock > build.lock \
    && pip install --no-cache-dir --require-hashes --requirement build.lock
COPY . ./
RUN mkdir /metadata \
    && python -c "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('/metadata')" \
    && rm -r /metadata/*.egg-info

FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /app

# the locked dependencies come first: they change rarely, and this layer takes the time
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

# the metrics folder is a volume, which takes its owner from here
RUN groupadd --gid 10001 echo-markets \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent echo-markets \
    && install --directory --owner=echo-markets --group=echo-markets /var/lib/echo-markets/metrics \
    && printf '#!/bin/sh\nexec python -m core.cli "$@"\n' > /usr/local/bin/echo-markets \
    && chmod 755 /usr/local/bin/echo-markets

COPY --from=metadata /metadata ./
COPY data data
COPY migrations migrations
COPY core core
COPY exporter exporter
COPY dashboard dashboard
# the dashboard shows it
COPY docs/troubleshooting.md docs/
ARG REVISION=unknown
RUN echo "$REVISION" > REVISION
RUN python -m compileall -q core exporter dashboard migrations

ENV PYTHONPATH=/app
USER echo-markets
CMD ["echo-markets", "--help"]
