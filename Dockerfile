# One image for every process: `shunter scheduler`, `gateway`, `operator` and `engine`.
# It runs as a user without a name, on a read-only root file system; /tmp is all it writes to.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/shunter
# The dependencies are a layer of their own: a change of code does not fetch them again.
COPY pyproject.toml .
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; print(*project["dependencies"], *extras["in-cluster"], *extras["numpy-engine"], *extras["s3"], sep="\n")' > requirements.txt \
 && pip --python /opt/shunter/bin/python install --no-cache-dir --no-compile --only-binary=:all: -r requirements.txt \
 # Nobody runs others' tests here, and hf_xet is a faster way to a hub for a client that is not used.
 && find /opt/shunter -depth -type d -name tests -exec rm -rf {} + \
 && rm -rf /opt/shunter/lib/python*/site-packages/hf_xet* \
 && find /opt/shunter -name '*.pyi' -delete
COPY README.md LICENSE ./
COPY proto proto
COPY scheduler scheduler
COPY operator operator
COPY manifests manifests
COPY charts/shunter/files charts/shunter/files
# Bytecode of what the processes load and of nothing else: it cannot be written later.
RUN pip --python /opt/shunter/bin/python install --no-cache-dir --no-compile --no-deps . \
 && /opt/shunter/bin/python -c 'import aiohttp.web, grpc.aio, kopf, obstore.store, shunter.doctor.table, shunter.release, shunter_engine.__main__, shunter_gateway.command, shunter_operator.__main__, shunter_scheduler.process, tokenizers' \
 && /opt/shunter/bin/python -m compileall -q /opt/shunter/lib/python*/site-packages/shunter*

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="shunter" \
      org.opencontainers.image.description="Control plane that serves many language models on mixed GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/shunter /opt/shunter
# The user has no entry in /etc/passwd: LOGNAME is for those who ask for its name.
ENV PATH=/opt/shunter/bin:$PATH \
    LOGNAME=shunter \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["shunter"]
CMD ["--help"]
