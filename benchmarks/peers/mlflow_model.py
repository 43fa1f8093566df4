"""MLflow's way: saves a pyfunc model with type hints, which `mlflow models serve` then serves."""
# mypy: ignore-errors

import os
import pickle
import shutil
import sys

import mlflow


class Category(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["model"], "rb") as file:
            self.model = pickle.load(file)

    def predict(self, context, model_input: list[str]) -> list[str]:
        features = self.model["vect"].transform(model_input)
        return [str(each) for each in self.model["clf"].predict(features)]


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    mlflow.pyfunc.save_model(
        sys.argv[1],
        python_model=Category(),
        artifacts={"model": os.environ["MODEL"]},
        pip_requirements=["scikit-learn"],
    )
