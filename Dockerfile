# A server with the page and the API of `mrcnn serve`:
#   docker build -t mrcnn . && docker run -p 8000:8000 -e MRCNN_TOKEN=change-me mrcnn
# Other weights: mount them, and add `--weights /weights/file.h5`.
FROM python:3.12-slim

# OpenCV's wheel needs these.
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml setup.py README.md LICENSE /src/
COPY mrcnn /src/mrcnn
RUN pip install --no-cache-dir '/src[tensorflow,serve]' && rm -r /src && useradd --create-home mrcnn

USER mrcnn
WORKDIR /home/mrcnn
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["mrcnn", "serve", "--host", "0.0.0.0", "--port", "8000"]
