"""MLServer's way: a custom runtime with its string codec, two parallel workers for two cores."""
# mypy: ignore-errors

import os
import pickle
from typing import List  # noqa: UP035 # MLServer's codecs know no list[str]

from mlserver import MLModel
from mlserver.codecs import decode_args


class Category(MLModel):
    async def load(self) -> bool:
        with open(os.environ["MODEL"], "rb") as file:
            self.model = pickle.load(file)
        return True

    @decode_args
    async def predict(self, descricao: List[str]) -> List[str]:  # noqa: UP006
        features = self.model["vect"].transform(descricao)
        return [str(each) for each in self.model["clf"].predict(features)]
