# syntax=docker/dockerfile:1
# bfn-toolkit with a torch for the CPU, and no compiler, cache or root:
#   docker build --tag bfn-toolkit .                                              # CUDA: --build-arg TORCH_BACKEND=cu130
#   docker run --rm --volume "$PWD:/data" --user "$(id -u)" bfn-toolkit train people.csv --out runs/people
FROM python:3.13-slim AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
ARG TORCH_BACKEND=cpu
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /source
COPY . .
RUN python -m venv --without-pip /opt/bfn \
    && uv pip install --python /opt/bfn/bin/python --torch-backend "$TORCH_BACKEND" \
        --constraints constraints.txt --build-constraints constraints.txt torch==2.13.0 '.[data,text]'

FROM python:3.13-slim
RUN useradd --uid 1000 --create-home bfn && install --directory --owner bfn /data
COPY --from=build /opt/bfn /opt/bfn
ENV PATH=/opt/bfn/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /data
ENTRYPOINT ["bfn"]
CMD ["--help"]
