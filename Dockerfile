# The image of every step: the wheel of keras_spatial, and the checkout's application part beside it.
# Build: docker build -t REGISTRY/keras-spatial-python:0.1.0 .
# TensorFlow's CUDA libraries come with --build-arg TENSORFLOW=tensorflow[and-cuda].
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY keras_spatial ./keras_spatial
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./

FROM python:3.11.14-slim-bookworm
ARG TENSORFLOW=tensorflow
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    TF_ENABLE_ONEDNN_OPTS=1 \
    TF_CPP_MIN_LOG_LEVEL=2
COPY --from=build /wheels /wheels
# The constraints pin every package of the image; `make constraints` writes them.
COPY constraints.txt /wheels/
RUN wheel="$(ls /wheels/*.whl)" \
    && python -m pip install --no-cache-dir --constraint /wheels/constraints.txt "${wheel}[app]" "${TENSORFLOW}" \
    && rm -r /wheels \
    && useradd --create-home --uid 10001 --shell /usr/sbin/nologin keras
WORKDIR /app
COPY components ./components
COPY datasets ./datasets
COPY pipelines ./pipelines
USER 10001:10001
CMD ["python", "-m", "pipelines", "--help"]
