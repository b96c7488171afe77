# One image for every process: Spark driver and executors, the feature server, the command line. No PYTHONPATH anywhere.
FROM python:3.11.13-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless procps \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY lock/runtime.txt lock/runtime.txt
RUN pip install --no-cache-dir --require-hashes -r lock/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY moontide moontide
COPY encoders encoders
COPY jobs jobs
COPY ranking ranking
COPY serving serving
COPY streaming streaming
COPY native native
# The compiler is there for the native parts only; without them numpy counts and a dictionary looks up, so the image must not be without
# them unseen.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && python -I -c 'import sys; from moontide.native import CHOSEN; sys.exit(CHOSEN.why or None)' \
    && python -I -c 'import sys; from moontide.row_index import LIBRARY; sys.exit(None if LIBRARY else "no native rows")' \
    && apt-get purge -y --auto-remove gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY feature_repo feature_repo
COPY artifacts artifacts

# The commands run from /data, where no folder of ours can shadow the installed packages.
RUN useradd --create-home --uid 10001 moontide && mkdir -p /data && chown moontide /data
USER moontide
WORKDIR /data
ENV PYSPARK_PYTHON=/usr/local/bin/python
ENTRYPOINT ["moontide"]
CMD ["doctor"]
