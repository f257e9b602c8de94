# Two targets: `docker build --target cpu --build-arg TORCH_INDEX=… -t sharpeye .`
# and `docker build --target cuda -t sharpeye:cuda .`
# Run: docker run --rm -p 127.0.0.1:8501:8501 -v sharpeye:/data -v ~/photos:/photos:ro sharpeye \
#        serve --workspace /data --host 0.0.0.0 --root /photos --no-browser
# It prints the address with its token.

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY engine engine
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS base
RUN useradd --create-home sharpeye && mkdir --mode=700 /data && chown sharpeye /data
COPY --from=wheel /wheels /wheels
ENV PYTHONUNBUFFERED=1
VOLUME /data
HEALTHCHECK --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]

FROM base AS cuda
RUN pip install --no-cache-dir /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]

# PyTorch's own package index holds builds without CUDA, a tenth of the size: give its address as TORCH_INDEX.
FROM base AS cpu
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]
