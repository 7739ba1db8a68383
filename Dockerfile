# The image of every step: the wheel of keras_spatial, and the checkout's application part beside it.
# CPU and TPU: docker build -t REGISTRY/keras-spatial-python:0.2.0 .
# GPU:         docker build -t REGISTRY/keras-spatial-python:0.2.0-cuda --build-arg EXTRAS=app,stores,cuda .
# Name the image by the digest that `docker push` prints, see pipelines/README.md.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY keras_spatial ./keras_spatial
COPY keras_spatial_command ./keras_spatial_command
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./

FROM python:3.11.14-slim-bookworm
ARG EXTRAS=app,stores
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    TF_ENABLE_ONEDNN_OPTS=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib
# LD_LIBRARY_PATH: there GKE's device plugin mounts the node's driver, which images that are not NVIDIA's do not look for.
COPY --from=build /wheels /wheels
# The constraints pin every package of the image; `make constraints` writes them.
COPY constraints.txt /wheels/
RUN wheel="$(ls /wheels/*.whl)" \
    && python -m pip install --no-cache-dir --constraint /wheels/constraints.txt "${wheel}[${EXTRAS}]" \
    && rm -r /wheels \
    && useradd --create-home --uid 10001 --shell /usr/sbin/nologin keras
WORKDIR /app
COPY components ./components
COPY datasets ./datasets
COPY pipelines ./pipelines
USER 10001:10001
CMD ["python", "-m", "pipelines", "--help"]
