"""The model file: reads `model.sav`, somebody else's pickle, without letting it run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import warnings
from dataclasses import dataclass
from typing import Any

import sklearn
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

from scorer import ModelError

# Everything that a text classifier's pickle names. A pickle calls whatever it may name, so a class gets in
# by its exact name and only if building it from hostile arguments is harmless. That leaves out trees, SVC and
# nearest neighbours: their compiled code trusts the indices inside the file.
_ALLOWED = {
    "builtins": {"frozenset", "set"},
    "numpy": {"bool_", "dtype", "float32", "float64", "int32", "int64", "ndarray", "str_"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "sklearn._loss._loss": {"CyHalfBinomialLoss"},
    "sklearn.calibration": {"CalibratedClassifierCV", "_CalibratedClassifier", "_SigmoidCalibration"},
    "sklearn.feature_extraction.text": {"CountVectorizer", "HashingVectorizer", "TfidfTransformer", "TfidfVectorizer"},
    "sklearn.linear_model._logistic": {"LogisticRegression", "LogisticRegressionCV"},
    "sklearn.linear_model._perceptron": {"Perceptron"},
    "sklearn.linear_model._ridge": {"RidgeClassifier"},
    "sklearn.linear_model._sgd_fast": {"Hinge", "ModifiedHuber", "SquaredHinge"},
    "sklearn.linear_model._stochastic_gradient": {"SGDClassifier"},
    "sklearn.multiclass": {"OneVsRestClassifier"},
    "sklearn.naive_bayes": {"BernoulliNB", "ComplementNB", "MultinomialNB"},
    "sklearn.pipeline": {"FeatureUnion", "Pipeline"},
    "sklearn.preprocessing._label": {"LabelBinarizer"},
    "sklearn.svm._classes": {"LinearSVC"},
}

# What to do about others that come with a classifier which is on the list.
_REMEDIES = {
    "GridSearchCV": "save its best_estimator_",
    "RandomizedSearchCV": "save its best_estimator_",
    "KFold": "cv must be a number",
    "StratifiedKFold": "cv must be a number",
    "__randomstate_ctor": "random_state must be a number",
    "_reconstructor": "save it with pickle.dump's own protocol, not with 0 or 1",
    "csr_matrix": "call densify() on a classifier with sparse weights first",
}

# What unpickling or using a broken, foreign or too new file raises, short of a fault of ours.
BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Model:
    """What `model.sav` holds: `clf.predict(vect.transform([text]))[0]` is the category."""

    vect: Any
    clf: Any
    meta: dict[str, Any]  # the card, empty where the file has none
    sklearn: str  # the version that pickled it


class _Unpickler(pickle.Unpickler):
    """Refuses, before anything runs, whatever is not on the list."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 spells an array's bytes
            return _encode_latin1
        if module.startswith("numpy.core."):  # the package's name before numpy 2
            module = "numpy._core." + module.removeprefix("numpy.core.")
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        full = f"{module}.{name}"
        if module.startswith("joblib."):
            raise ModelError(f"it is a joblib file ({full}): save it with pickle.dump")
        if name in _REMEDIES:
            raise ModelError(f"it refuses {full}: {_REMEDIES[name]}")
        if module.partition(".")[0] not in {"numpy", "scipy", "sklearn"}:
            raise ModelError(
                f"it refuses {full}: a vectorizer must not call functions of its author's, "
                "nor a pickle anything but the classes of a text classifier"
            )
        raise ModelError(
            f"it refuses {full}: not one of the classes that may be in a model file, which README.md lists"
        )


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model that the file holds, without running code of the file's.

    Raises ModelError, naming the file and what is wrong: not readable, not a pickle, a class that is not allowed,
    or not a dict with a vectorizer, `vect`, and a classifier, `clf`. Another version of scikit-learn is no error here.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        try:
            content = _Unpickler(io.BytesIO(data)).load()
            if isinstance(content, dict):
                _refuse_reader(content.get("vect"))
        except ModelError as error:
            raise ModelError(f"{path}: {error}{_maker(data)}") from None
        except BROKEN as error:
            raise ModelError(
                f"{path}: not a pickle that scikit-learn {sklearn.__version__} can read "
                f"({type(error).__name__}: {error}){_maker(data)}; a joblib file must be saved anew with pickle.dump"
            ) from error
    if not isinstance(content, dict) or not {"vect", "clf"} <= content.keys():
        mend = '; save {"vect": pipeline[:-1], "clf": pipeline[-1]}' if isinstance(content, Pipeline) else ""
        raise ModelError(f'{path}: not a dict {{"vect": …, "clf": …}}{mend}')
    meta = _card(path, content)
    for key, method in {"vect": "transform", "clf": "predict"}.items():
        if not hasattr(content[key], method):
            raise ModelError(f"{path}: {key} is of the type {type(content[key]).__name__}, which has no {method}")
    versions = {w.message.original_sklearn_version for w in caught if isinstance(w.message, InconsistentVersionWarning)}
    version = ", ".join(sorted(versions)) or sklearn.__version__
    return Model(content["vect"], content["clf"], meta, version)


def _refuse_reader(vect: Any) -> None:
    params = vect.get_params() if hasattr(vect, "get_params") else {}
    if any(name.rpartition("__")[2] == "input" and value != "content" for name, value in params.items()):
        raise ModelError("its vectorizer reads files: a text would name one")


def _maker(data: bytes) -> str:
    """Return, for the message, which other scikit-learn a pickle that cannot be read says made it."""
    found = re.search(rb"_sklearn_version.{2,12}?(\d+(\.\d+)+)", data, re.DOTALL)
    if not found or found[1].decode() == sklearn.__version__:
        return ""
    return f"; scikit-learn {found[1].decode()} made it, and this is {sklearn.__version__}: fit and pickle it with that"


def _card(path: str | os.PathLike[str], content: dict[str, Any]) -> dict[str, Any]:
    meta = content.get("meta")
    if meta is None:
        return {}
    try:
        if not isinstance(json.loads(json.dumps(meta, allow_nan=False)), dict):
            raise TypeError("not a dict")
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: meta must hold what JSON can ({error})") from error
    phrases = meta.get("frases", [])
    if not isinstance(phrases, list) or not all(
        isinstance(phrase, dict) and isinstance(phrase.get("texto"), str) and "categoria" in phrase
        for phrase in phrases
    ):
        raise ModelError(f'{path}: frases must be a list of {{"texto": …, "categoria": …}}')
    threshold = meta.get("limiar_incerto", 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ModelError(f"{path}: limiar_incerto must be a number from 0 to 1")
    return dict(meta)
