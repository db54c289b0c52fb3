# simsam in a container.
#   docker build -t simsam .
#   docker run --gpus all -v /data:/data simsam segment /data/photos /data/run
# The base is Debian with Python and nothing of CUDA: torch's wheels bring the CUDA libraries they were built with, so
# that a CUDA base would only add second ones of another version. The host needs its driver and the NVIDIA container
# toolkit; without a GPU the same image computes on the CPU.
# For machines without GPUs, a gigabyte or two in place of ten: torch from the index of CPU wheels that PyTorch's
# installation page names, and without CuPy.
#   docker build -t simsam:cpu --build-arg TORCH_INDEX=URL --build-arg EXTRAS=ray,s3 .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
# gpu: eigenproblems on the GPU
ARG EXTRAS=ray,s3,gpu
RUN python -m venv /opt/simsam
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
# What torch itself needs comes with the next step.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "${TORCH_INDEX}" ]; then \
      /opt/simsam/bin/pip install --no-deps --index-url "${TORCH_INDEX}" -c constraints.txt torch torchvision; \
    fi
COPY simsam_batch simsam_batch
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/simsam/bin/pip install -c constraints.txt ".[${EXTRAS}]" && /opt/simsam/bin/pip check

FROM python:${PYTHON}-slim
# KubeRay's probes call wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home simsam
COPY --from=build /opt/simsam /opt/simsam
# A login shell, which KubeRay starts, takes PATH from the system.
RUN ln -s /opt/simsam/bin/simsam /opt/simsam/bin/torchrun /usr/local/bin/ \
    && if [ -e /opt/simsam/bin/ray ]; then ln -s /opt/simsam/bin/ray /usr/local/bin/; fi
ENV PATH=/opt/simsam/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token
USER 1000
WORKDIR /home/simsam
# Seldom: on a GPU it takes memory of its own while it looks.
HEALTHCHECK --interval=30m --timeout=3m --start-period=2m --retries=2 CMD ["simsam", "doctor", "--backbone", "descriptors"]
ENTRYPOINT ["simsam"]
CMD ["--help"]
