"""Unit: what model.sav may hold, and that nothing else in it runs."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import operator
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC, LinearSVC

from classifier import Classifier
from model_file import load
from scorer import ModelError
from tests.conftest import CATEGORIES, TEXTS

VECTORIZERS = {
    "counts": CountVectorizer(),
    "tfidf": TfidfVectorizer(sublinear_tf=True, stop_words=["de"], dtype=np.float32),
    "characters": TfidfVectorizer(analyzer="char", ngram_range=(1, 3), token_pattern=None),
    "hashing": HashingVectorizer(n_features=512, alternate_sign=False),
    "pipeline": Pipeline([("counts", CountVectorizer(binary=True)), ("tfidf", TfidfTransformer())]),
    "union": FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2))),
            ("characters", CountVectorizer(analyzer="char_wb", ngram_range=(2, 3))),
        ]
    ),
}
CLASSIFIERS = {
    "multinomial": MultinomialNB(),
    "complement": ComplementNB(),
    "bernoulli": BernoulliNB(),
    "logistic": LogisticRegression(),
    "logistic, cross-validated": LogisticRegressionCV(Cs=2, cv=2),
    "hinge": SGDClassifier(random_state=0),
    "log loss": SGDClassifier(loss="log_loss", random_state=0),
    "huber": SGDClassifier(loss="modified_huber", random_state=0),
    "svc": LinearSVC(),
    "perceptron": Perceptron(),
    "ridge": RidgeClassifier(),
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "one against the rest": OneVsRestClassifier(LinearSVC()),
    "one against the rest, with probabilities": OneVsRestClassifier(LogisticRegression()),
}


@pytest.mark.filterwarnings("ignore:.*(l1_ratios|'scoring'|use_legacy_attributes):FutureWarning")
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("clf", CLASSIFIERS.values(), ids=CLASSIFIERS)
@pytest.mark.parametrize("vect", VECTORIZERS.values(), ids=VECTORIZERS)
def test_what_people_pickle_is_served_with_the_same_answers(vect: Any, clf: Any, protocol: int, tmp_path: Path) -> None:
    clf.fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}, protocol))

    classifier = Classifier(path)

    assert [classifier.predict(text) for text in TEXTS] == clf.predict(vect.transform(TEXTS)).tolist()


class Call:
    """Pickles as a call, which is how a pickle runs code."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call

    def __call__(self) -> None:
        """Let pickle take the outcome of a call for something to call."""


def touch(path: str) -> None:
    Path(path).touch()


EXPLOITS = {
    "os.system": lambda proof: Call(os.system, f"touch {proof}"),
    "eval": lambda proof: Call(eval, f"open({proof!r}, 'w')"),
    "getattr chain": lambda proof: Call(getattr, Call(__import__, "os"), "system"),
    "eval by getattr": lambda proof: Call(Call(getattr, Call(importlib.import_module, "builtins"), "eval"), "1"),
    "importlib": lambda proof: Call(importlib.import_module, "antigravity"),
    "methodcaller": lambda proof: Call(operator.methodcaller("touch"), proof),
    "attrgetter": lambda proof: Call(operator.attrgetter("touch"), proof),
    "Popen": lambda proof: Call(subprocess.Popen, ["touch", str(proof)]),
    "pickle": lambda proof: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {proof}"))),
    "runstring": lambda proof: Call(np.testing.runstring, f"open({str(proof)!r}, 'w')", {}),
    "rundocs": lambda proof: Call(np.testing.rundocs, str(proof)),
    "partial": lambda proof: functools.partial(os.system, f"touch {proof}"),
    "open": lambda proof: Call(io.open, str(proof), "w"),
    "function": lambda proof: Call(touch, str(proof)),
    "sklearn that calls": lambda proof: FunctionTransformer(os.system),
    "analyzer": lambda proof: CountVectorizer(analyzer=os.system),
    "tokenizer": lambda proof: TfidfVectorizer(tokenizer=os.system),
    "preprocessor": lambda proof: HashingVectorizer(preprocessor=os.system),
    "bound method": lambda proof: CountVectorizer(analyzer=proof.touch),
    "in a pipeline": lambda proof: Pipeline([("a", FeatureUnion([("b", FunctionTransformer(os.system))]))]),
    "joblib load": lambda proof: Call(joblib.load, str(proof)),
    "numpy load": lambda proof: Call(np.load, str(proof), None, True),
}


@pytest.mark.parametrize("exploit", EXPLOITS.values(), ids=EXPLOITS)
@pytest.mark.parametrize("nested", [False, True])
def test_exploit_is_refused_before_anything_runs(exploit: Any, nested: bool, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "model.sav"
    vect = CountVectorizer().fit(TEXTS)
    if nested:
        vect.stop_words_ = {"state": [exploit(proof)]}
    content = {"vect": vect if nested else exploit(proof), "clf": MultinomialNB()}
    path.write_bytes(pickle.dumps(content))

    with pytest.raises(ModelError, match=r"refuses|joblib"):
        load(path)

    assert not proof.exists()


OPCODES = {
    "GLOBAL": b"cos\nsystem\n(S'touch %s'\ntR.",
    "INST": b"(S'touch %s'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch %s'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\nS'touch %s'\n\x85\x81.",
    "EXT1": b"\x80\x02\x82\x01(S'touch %s'\ntR.",
    "PERSID": b"Ptouch %s\n.",
    "BUILD of a class": b"\x80\x02csklearn.pipeline\nPipeline\n}S'predict'\ncos\nsystem\nsb.",
    "BUILD of a builtin": b"\x80\x02cbuiltins\nset\n}S'__init__'\nS'touch %s'\nsb.",
}


@pytest.mark.parametrize("code", OPCODES.values(), ids=OPCODES)
def test_no_opcode_goes_round_the_list(code: bytes, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "model.sav"
    path.write_bytes(code.replace(b"%s", str(proof).encode()))

    with pytest.raises(ModelError):
        load(path)

    assert not proof.exists()
    assert Pipeline.predict is not os.system


@pytest.mark.parametrize(
    "name", ["os.system", "sklearn.os.system", "numpy.dtype.__init__", "sklearn.pipeline.Pipeline.fit"]
)
def test_dotted_name_does_not_reach_through_an_allowed_module(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(".")
    path = tmp_path / "model.sav"
    path.write_bytes(
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)) + b"\x93."
    )

    with pytest.raises(ModelError, match="refuses"):
        load(path)


def author_tokenizer(text: str) -> list[str]:
    return text.split()


def test_function_of_the_authors_is_refused_by_a_message_that_says_so(tmp_path: Path) -> None:
    vect = CountVectorizer(tokenizer=author_tokenizer, token_pattern=None)
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}))

    with pytest.raises(ModelError, match=r"author_tokenizer.*must not call functions of its author's"):
        load(path)


@pytest.mark.parametrize("kind", ["filename", "file"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda vect: vect,
        lambda vect: Pipeline([("a", vect)]),
        lambda vect: FeatureUnion([("a", CountVectorizer().fit(TEXTS)), ("b", Pipeline([("c", vect)]))]),
    ],
    ids=["alone", "pipeline", "union"],
)
def test_vectorizer_that_reads_files_is_refused(wrap: Any, kind: str, tmp_path: Path) -> None:
    vect = CountVectorizer().fit(TEXTS)
    whole = wrap(vect)
    clf = MultinomialNB().fit(whole.transform(TEXTS), CATEGORIES)
    vect.input = kind
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": whole, "clf": clf}))

    with pytest.raises(ModelError, match="reads files"):
        Classifier(path)


WRAPS: list[Callable[[Any], Any]] = [
    lambda vect: vect,
    lambda vect: Pipeline([("a", FeatureUnion([("b", CountVectorizer().fit(TEXTS)), ("c", vect)]))]),
]


@pytest.mark.parametrize("number", [-1, 2**30])
@pytest.mark.parametrize("wrap", WRAPS, ids=["alone", "within"])
def test_vocabulary_that_scikit_learn_would_crash_on_is_refused_where_it_is_not_compiled(
    wrap: Callable[[Any], Any], number: int, tmp_path: Path
) -> None:
    vect = CountVectorizer().fit([*TEXTS, "azul"])
    clf = BernoulliNB().fit(wrap(vect).transform(TEXTS), CATEGORIES)
    vect.vocabulary_["azul"] = number
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": wrap(vect), "clf": clf}))

    with pytest.raises(ModelError, match="number its terms from 0"):
        Classifier(path)


@pytest.mark.parametrize("number", [-5, 0, 2**31])
@pytest.mark.parametrize("wrap", WRAPS, ids=["alone", "within"])
def test_number_of_features_that_scikit_learn_would_crash_on_is_refused(
    wrap: Callable[[Any], Any], number: int, tmp_path: Path
) -> None:
    vect = HashingVectorizer(n_features=64, alternate_sign=False)
    clf = BernoulliNB().fit(wrap(vect).transform(TEXTS), CATEGORIES)
    vect.n_features = number
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": wrap(vect), "clf": clf}))

    with pytest.raises(ModelError, match=f"cannot make {number} features"):
        Classifier(path)


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_file_is_refused_by_a_message_that_says_so(compress: int, tmp_path: Path) -> None:
    vect = CountVectorizer()
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path / "model.sav"
    joblib.dump({"vect": vect, "clf": clf}, path, compress=compress)

    with pytest.raises(ModelError, match="joblib"):
        load(path)


@pytest.mark.parametrize(
    ("clf", "protocol", "remedy"),
    [
        (GridSearchCV(MultinomialNB(), {"alpha": [1]}, cv=2), 5, "best_estimator_"),
        (RandomizedSearchCV(MultinomialNB(), {"alpha": [1]}, n_iter=1, cv=2), 5, "best_estimator_"),
        (CalibratedClassifierCV(LinearSVC(), cv=StratifiedKFold(2)), 5, "cv must be a number"),
        (SGDClassifier(random_state=np.random.RandomState(0)), 5, "random_state"),
        (MultinomialNB(), 0, "protocol"),
        (MultinomialNB(), 1, "protocol"),
    ],
    ids=["search", "random search", "folds", "random state", "protocol 0", "protocol 1"],
)
def test_what_is_nearly_a_model_is_refused_with_what_to_do(
    clf: Any, protocol: int, remedy: str, tmp_path: Path
) -> None:
    vect = CountVectorizer()
    clf.fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}, protocol))

    with pytest.raises(ModelError, match=f"refuses .*: .*{remedy}"):
        load(path)


def test_sparse_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    vect = CountVectorizer()
    clf = LogisticRegression().fit(vect.fit_transform(TEXTS), CATEGORIES).sparsify()
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}))

    with pytest.raises(ModelError, match=r"refuses .*densify\(\)"):
        load(path)


@pytest.mark.parametrize("clf", [RandomForestClassifier(2), SVC()], ids=["forest", "svc"])
def test_class_that_trusts_the_file_is_refused_by_name(clf: Any, tmp_path: Path) -> None:
    vect = CountVectorizer()
    clf.fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}))

    with pytest.raises(ModelError, match=type(clf).__name__):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a pickle"),
        (b"<html>", "not a pickle"),
        (pickle.dumps([1]), "not a dict"),
        (pickle.dumps({"vect": 1}), "not a dict"),
        (pickle.dumps(Pipeline([("vect", CountVectorizer())])), r"save {\"vect\": pipeline\[:-1\]"),
        (pickle.dumps({"vect": MultinomialNB(), "clf": CountVectorizer()}), "vect is of the type MultinomialNB"),
        (pickle.dumps({"vect": CountVectorizer(), "clf": CountVectorizer()}), "clf is of the type CountVectorizer"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": [3]}), "meta"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": {"qualidade": {4}}}), "meta"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": {"qualidade": float("nan")}}), "meta"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": {"limiar_incerto": 2}}), "limiar_incerto"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": {"frases": 3}}), "frases"),
        (pickle.dumps({"vect": 1, "clf": 2, "meta": {"frases": [{"text": "a"}]}}), "frases"),
    ],
)
def test_broken_file_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.sav"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ModelError, match=message):
        load(path)


def test_truncated_file_is_refused_wherever_it_is_cut(tiny_model: Path, tmp_path: Path) -> None:
    whole, path = tiny_model.read_bytes(), tmp_path / "model.sav"

    for length in range(0, len(whole), 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load(path)


def test_version_that_pickled_it_is_known(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.sav"
    ours = sklearn.__version__
    older = "0" * (len(ours) - 2) + ".1"
    path.write_bytes(tiny_model.read_bytes().replace(ours.encode(), older.encode()))

    assert [load(tiny_model).sklearn, load(path).sklearn] == [ours, older]
    assert load(path).meta == {}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"sklearn.naive_bayes", b"sklearn.naive_baves"),
        (b"MultinomialNB", b"MultinomialNA"),
        (b"feature_log_prob_", b"feature_log_prov_"),
    ],
    ids=["module", "class", "attribute"],
)
def test_file_of_a_version_that_cannot_be_read_is_refused_with_the_version(
    right: bytes, wrong: bytes, protocol: int, tiny_model: Path, tmp_path: Path
) -> None:
    ours = sklearn.__version__
    older = "0" * (len(ours) - 2) + ".1"
    data = pickle.dumps(pickle.loads(tiny_model.read_bytes()), protocol).replace(ours.encode(), older.encode())
    path = tmp_path / "model.sav"
    path.write_bytes(data.replace(right, wrong))

    with pytest.raises(ModelError, match=re.escape(older)):
        Classifier(path)


def test_another_version_of_scikit_learn_is_a_warning_that_names_both(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.sav"
    ours = sklearn.__version__
    older = "0" * (len(ours) - 2) + ".1"
    path.write_bytes(tiny_model.read_bytes().replace(ours.encode(), older.encode()))

    with caplog.at_level(logging.WARNING):
        Classifier(path)

    assert {ours, older} <= set(caplog.text.split())
