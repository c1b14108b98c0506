# cirilla in a container. CPU:   docker build -t cirilla .
#                        CUDA:  docker build -t cirilla --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# Run: docker run --rm -it -v "$PWD:/home/cirilla/work" cirilla run quickstart     (add --gpus all for CUDA)
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# reasoning-gym needs a package that has no wheel for every Python and is compiled then.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/cirilla
ENV PATH=/opt/cirilla/bin:$PATH
WORKDIR /src
# From what changes least to what changes most: torch, the other dependencies, this project.
COPY constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p cirilla_cli recipes && touch cirilla_cli/__init__.py && pip install --no-cache-dir -c constraints.txt . && pip uninstall --yes cirilla-cli
COPY cirilla_cli cirilla_cli
COPY recipes recipes
RUN pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --create-home cirilla
COPY --from=build /opt/cirilla /opt/cirilla
ENV PATH=/opt/cirilla/bin:$PATH
USER cirilla
WORKDIR /home/cirilla/work
ENTRYPOINT ["cirilla"]
CMD ["--help"]
