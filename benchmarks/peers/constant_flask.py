"""The limit of a Flask route: it reads the request's body and answers a constant."""

from __future__ import annotations

from flask import Flask, Response, request

from benchmarks.peers.constant import ANSWER

app = Flask(__name__, static_folder=None)


@app.post("/predizer_categoria")
def predizer_categoria() -> Response:
    request.get_data()
    return Response(ANSWER, content_type="application/json")
