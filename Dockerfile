# The HTTP service of an export (docs/container.md). DEVICE is what JAX is installed for: cpu, or cuda12 or cuda13 for
# NVIDIA GPUs. The CUDA libraries come as wheels, so the base image stays the same.
ARG PYTHON=3.11

FROM docker.io/library/python:${PYTHON}-slim-bookworm AS build
ARG DEVICE=cpu
WORKDIR /source
RUN python -m venv /venv
# Installs only the dependencies, from the metadata and an empty package: a change of the code leaves this layer as it is.
COPY requirements.txt setup.cfg pyproject.toml README.md LICENSE ./
RUN case "$DEVICE" in \
        cpu) extras=serve ;; \
        cuda12 | cuda13) extras="serve,$DEVICE" ;; \
        *) echo "DEVICE=$DEVICE is not one of cpu, cuda12, cuda13" >&2; exit 1 ;; \
    esac \
    && mkdir tsrec_jax && echo '__version__ = "0"' > tsrec_jax/__init__.py \
    && /venv/bin/pip install --no-cache-dir ".[$extras]" \
    && rm -r tsrec_jax build ./*.egg-info
COPY configs configs
COPY tsrec_jax tsrec_jax
RUN /venv/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM docker.io/library/python:${PYTHON}-slim-bookworm
# The user is a number, so that an orchestrator can see that it is not root. Files that change during serving are in /data.
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tsrec \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    JAX_COMPILATION_CACHE_DIR=/data/compiled \
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Ready, not only alive: whoever waits for a healthy container wants answers. start-period leaves time for warming up.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["tsrec"]
CMD ["serve", "--export=/export", "--catalogue=/data/catalogue.sqlite", "--host=0.0.0.0"]
