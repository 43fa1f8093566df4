"""LitServe's way: its quick start with scikit-learn, two workers for two cores."""
# mypy: ignore-errors

import os
import pickle
import sys

import litserve as ls


class CategoryAPI(ls.LitAPI):
    def setup(self, device):
        with open(os.environ["MODEL"], "rb") as file:
            self.model = pickle.load(file)

    def decode_request(self, request):
        return request["descricao"]

    def predict(self, text):
        return self.model["clf"].predict(self.model["vect"].transform([text]))[0]

    def encode_response(self, output):
        return {"categoria": str(output)}


if __name__ == "__main__":
    server = ls.LitServer(CategoryAPI(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
