# A server for one model on CPUs, see docs/how-to/serve.md.
FROM python:3.12-slim

WORKDIR /opt/pspnet_zoo
COPY pyproject.toml README.md LICENSE LICENSE-weights.md ./
COPY pspnet_zoo pspnet_zoo
RUN pip install --no-cache-dir './[serve]' --extra-index-url https://download.pytorch.org/whl/cpu \
    && useradd --create-home --uid 10001 server

USER 10001
WORKDIR /home/server
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pspnet-zoo", "serve", "--host", "0.0.0.0"]
CMD ["pspnet_lite0.camvid"]
