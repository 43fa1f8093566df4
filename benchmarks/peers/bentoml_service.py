"""BentoML's way: its quick start with scikit-learn, two workers for two cores."""
# mypy: ignore-errors

import os
import pickle

import bentoml


@bentoml.service(workers=2)
class Category:
    def __init__(self) -> None:
        with open(os.environ["MODEL"], "rb") as file:
            self.model = pickle.load(file)

    @bentoml.api
    def predict(self, descricao: str) -> dict[str, str]:
        features = self.model["vect"].transform([descricao])
        return {"categoria": str(self.model["clf"].predict(features)[0])}
