FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /app
COPY pyproject.toml ./
COPY shared shared
COPY services services
COPY sandbox sandbox
COPY ops ops
ARG PACKAGE
RUN uv sync --package ${PACKAGE} --extra traces --no-dev --no-editable --no-cache

FROM python:3.13-slim
RUN useradd --system --create-home --uid 1001 app && install -d -o app /var/lib/app
COPY --from=build /app/.venv /app/.venv
ARG MODULE
ENV PATH=/app/.venv/bin:$PATH MODULE=${MODULE} PORT=8000 PYTHONUNBUFFERED=1
USER app
VOLUME /var/lib/app
EXPOSE 8000
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=60 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/readyz', timeout=4)"]
# Migrations are idempotent and take a lock, so every replica may start with them. A process without a database has none.
CMD ["sh", "-c", "if [ -n \"$OMS_DATABASE_URL\" ]; then python -m shared.migrations $MODULE; fi && exec uvicorn $MODULE.app:app --host 0.0.0.0 --port $PORT --no-access-log"]
