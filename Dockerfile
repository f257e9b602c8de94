# Two targets: `docker build --target cpu -t sharpeye .` and `docker build --target cuda -t sharpeye:cuda .`
# Run: docker run --rm -v sharpeye:/data sharpeye demo --headless

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY engine engine
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS base
RUN useradd --create-home sharpeye && mkdir /data && chown sharpeye /data
COPY --from=wheel /wheels /wheels
ENV PYTHONUNBUFFERED=1
VOLUME /data

FROM base AS cuda
RUN pip install --no-cache-dir /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]

# PyTorch's own index holds builds without CUDA; torchvision must come from the same place.
FROM base AS cpu
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "torch<2.14" torchvision \
    && pip install --no-cache-dir /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]
