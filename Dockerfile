# Two targets: `docker build --target cpu --build-arg TORCH_INDEX=… -t sharpeye .`
# and `docker build --target cuda -t sharpeye:cuda .`
# Run: docker run --rm -p 127.0.0.1:8501:8501 -v sharpeye:/data -v ~/photos:/photos:ro sharpeye \
#        serve --workspace /data --host 0.0.0.0 --root /photos --no-browser
# It prints the address with its token. What is installed is pinned in .ci, by hash; `.ci/lock` pins newer versions.

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY engine engine
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS base
RUN useradd --create-home sharpeye && mkdir --mode=700 /data && chown sharpeye /data
COPY --from=wheel /wheels /wheels
COPY .ci/requirements.txt .ci/requirements-cpu.txt .ci/torch-cpu.txt /pins/
ENV PYTHONUNBUFFERED=1
VOLUME /data
HEALTHCHECK --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]

FROM base AS cuda
RUN pip install --no-cache-dir --require-hashes -r /pins/requirements.txt \
    && pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]

# PyTorch's own package index holds builds without CUDA, a tenth of the size: give its address as TORCH_INDEX.
# These two packages come from there alone, and nothing else does.
FROM base AS cpu
ARG TORCH_INDEX
RUN pip install --no-cache-dir --require-hashes -r /pins/requirements-cpu.txt \
    && pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -r /pins/torch-cpu.txt \
    && pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
USER sharpeye
ENTRYPOINT ["sharpeye"]
CMD ["--help"]
