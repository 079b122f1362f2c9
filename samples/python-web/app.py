"""A web application: Flask, on the WSGI server of the standard library."""

import platform
from wsgiref.simple_server import make_server

from flask import Flask, request

app = Flask(__name__)


@app.get("/")
def index():
    return f"Hello from Flask on Python {platform.python_version()}, {platform.machine()}\n"


@app.post("/echo")
def echo():
    return request.get_data()


@app.get("/fetch")
def fetch():
    """Fetches a page, if the container was granted the host that it lies on."""
    import urllib.request

    try:
        with urllib.request.urlopen(request.args["url"], timeout=10) as response:
            return response.read()
    except OSError as error:
        return f"{error}\n", 502


if __name__ == "__main__":
    with make_server("0.0.0.0", 8000, app) as server:
        print("listening on port 8000")
        server.serve_forever()
