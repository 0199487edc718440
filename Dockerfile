# syntax=docker/dockerfile:1
# docker build --target cpu -t bevt:cpu .      docker build --target cuda -t bevt:cuda .
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

# Environments are installed here and copied, so that pip's files and this source stay out of the images.
FROM ${PYTHON_IMAGE} AS source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/bevt
WORKDIR /source
COPY . .

# ray[default] has the job server and the dashboard that KubeRay needs.
FROM source AS cpu-environment
RUN /opt/bevt/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt '.[az,gs,gzip,s3]' 'ray[default]'

# PyPI's torch brings CUDA; the host needs a driver and the NVIDIA Container Toolkit.
FROM source AS cuda-environment
RUN /opt/bevt/bin/pip install -c constraints.txt '.[az,gs,gzip,s3]' 'ray[default]'

# wget: KubeRay's probes of Ray's containers call it.
FROM ${PYTHON_IMAGE} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 bevt \
    && install --directory --owner bevt /data
ENV PATH=/opt/bevt/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /data
USER 1000
ENTRYPOINT ["bevt"]
CMD ["--help"]

# gcc: Triton compiles the launchers of its kernels at run time.
FROM base AS cuda
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=cuda-environment /opt/bevt /opt/bevt

FROM base AS cpu
COPY --from=cpu-environment /opt/bevt /opt/bevt
