# syntax=docker/dockerfile:1
# Three targets: `build` makes the wheel and the virtual environments, `worker` (the last, so the default) runs the service,
# `emulator` runs the AWS emulator of docker-compose.yml. Only `build` has pip, the sources and the build backend.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY constraints.txt ./
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY export_service export_service
COPY connectors connectors
COPY streams streams
COPY agents agents
COPY tables tables
COPY deploy/state-machine.asl.json deploy/state-machine.asl.json
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# --only-binary: Faust without its compiled stream iterator acks records unprocessed; the worker would refuse to start.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -c constraints.txt "$(echo /wheels/*.whl)[console]"

FROM build AS build-emulator
# The emulator and its Step Functions interpreter; not the whole `devstack` extra, which also brings a JRE for the embedded Kafka.
RUN pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -c constraints.txt 'moto[server,stepfunctions]'

FROM python:${PYTHON}-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 export && useradd --uid 10001 --gid export --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin export \
    && install -d -o export -g export /var/lib/export-service /exports
WORKDIR /var/lib/export-service
USER 10001:10001

FROM base AS emulator
COPY --from=build-emulator /opt/venv /opt/venv
# moto asks nobody for credentials, but botocore inside it wants some; its Step Functions reach its SQS at MOTO_PORT.
ENV AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1 MOTO_PORT=5000
EXPOSE 5000
STOPSIGNAL SIGKILL
ENTRYPOINT ["python", "-m", "export_service.devstack.aws_server"]
CMD ["5000", "0.0.0.0"]

FROM base AS worker
COPY --from=build /opt/venv /opt/venv
ENV EXPORT_WORKER_STATE_DIR=/var/lib/export-service/worker \
    EXPORT_LOG_FORMAT=json \
    EXPORT_METRICS_PORT=9464 \
    EXPORT_METRICS_HOST=0.0.0.0
EXPOSE 9464
# SIGTERM drains; a second one ends at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["export-service"]
CMD ["worker"]
