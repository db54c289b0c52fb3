# simsam in a container. torch's wheels bring CUDA along, so the host only needs its driver and the NVIDIA container
# toolkit; without a GPU the same image computes on the CPU.
#   docker build -t simsam .
#   docker run --gpus all -v /data:/data simsam segment /data/photos /data/run
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# gpu: eigenproblems on the GPU. A CPU image: --build-arg EXTRAS=ray,s3
ARG EXTRAS=ray,s3,gpu
RUN python -m venv /opt/simsam
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY simsam_batch simsam_batch
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/simsam/bin/pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home simsam
COPY --from=build /opt/simsam /opt/simsam
ENV PATH=/opt/simsam/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token
USER 1000
WORKDIR /home/simsam
ENTRYPOINT ["simsam"]
CMD ["--help"]
