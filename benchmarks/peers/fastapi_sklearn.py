"""FastAPI's way, as its tutorial has it: a pydantic model in, a dict out, and scikit-learn."""
# mypy: ignore-errors

import os
import pickle

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()

with open(os.environ["MODEL"], "rb") as file:
    model = pickle.load(file)


class Produto(BaseModel):
    descricao: str


@app.post("/predizer_categoria")
async def predizer_categoria(produto: Produto):
    features = model["vect"].transform([produto.descricao])
    return {"categoria": str(model["clf"].predict(features)[0])}
