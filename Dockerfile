# The whole product in one image, nginx in front of gunicorn, by default; with --target web or api one of the two alone.
FROM python:3.13-slim AS base
# curl: Heroku streams its release logs only with it.
# Debian keeps only the newest version of a package, so pinning one would break the build at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
WORKDIR /app
EXPOSE 8080
HEALTHCHECK CMD ["/bin/sh", "-c", "curl -fsS http://localhost:${PORT:-8080}/api/health"]

FROM base AS packages
COPY requirements.lock .
# What nothing here reads: the libraries' own tests. Their bytecode stays: a read-only disk could not hold it later.
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r requirements.lock \
    && python -c "import sklearn, pathlib; print(pathlib.Path(sklearn.__file__).parent.parent)" >/tmp/site \
    && find "$(cat /tmp/site)" -type d -name tests -prune -exec rm -rf {} + \
    && rm /tmp/site

FROM packages AS compiled
# gcc, with C's headers: only here, for scorer.c.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY . .
# Compiles scorer.c and the model; one that cannot be served fails here. Any uid must be able to read, whatever the
# checkout's umask.
RUN python -c "import app" && find . ! -perm -a+r -exec chmod a+rX {} +

FROM packages AS api
COPY --from=compiled /app .
USER 10001
CMD ["./entrypoint.sh", "api"]

# nginx-light: nginx without the modules that are not used.
FROM base AS web
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=compiled /app/entrypoint.sh /app/launch.py /app/nginx.conf /app/default ./
COPY --from=compiled /app/webclient webclient
USER 10001
CMD ["./entrypoint.sh", "web"]

# In this order a change of the code installs nothing anew.
FROM packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=compiled /app .
USER 10001
CMD ["./entrypoint.sh"]
