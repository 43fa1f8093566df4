# The whole product in one image: nginx in front of gunicorn, started by entrypoint.sh on $PORT.
FROM python:3.13-slim

# nginx-light: nginx without the modules that are not used. curl: Heroku streams its release logs only with it.
# Debian keeps only the newest version of a package, so pinning one would break the build at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light curl \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*

WORKDIR /app
COPY requirements.lock .
# What nothing here reads: the libraries' own tests. Their bytecode stays: a read-only disk could not hold it later.
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r requirements.lock \
    && python -c "import sklearn, pathlib; print(pathlib.Path(sklearn.__file__).parent.parent)" >/tmp/site \
    && find "$(cat /tmp/site)" -type d -name tests -prune -exec rm -rf {} + \
    && rm /tmp/site

COPY . .
# Compiles the model; one that cannot be served fails here. Any uid must be able to read, whatever the checkout's umask.
RUN python -c "import app" && find . ! -perm -a+r -exec chmod a+rX {} +

USER 10001
EXPOSE 8080
HEALTHCHECK CMD ["/bin/sh", "-c", "curl -fsS http://localhost:${PORT:-8080}/api/health"]
CMD ["./entrypoint.sh"]
