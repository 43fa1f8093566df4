"""The textbook's way: Flask, pickle and scikit-learn."""
# mypy: ignore-errors

import os
import pickle

from flask import Flask, jsonify, request

app = Flask(__name__)

with open(os.environ["MODEL"], "rb") as arquivo:
    modelo = pickle.load(arquivo)


@app.route("/predizer_categoria", methods=["POST"])
def predizer_categoria():
    produto = request.get_json()
    vetor = modelo["vect"].transform([produto["descricao"]])
    return jsonify(categoria=modelo["clf"].predict(vetor)[0])
